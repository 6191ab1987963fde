"""The job for SLURM of docs/scaling.md stops at the warning signal, queues itself again, and ends as if it had not."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ENVIRONMENT, digest

from janus_cli import recipe_load
from janus_cli.data.prepare import prepare

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
# Two tasks on this machine. With WARN the first one gets the warning signal, the other hears of it from the first.
SRUN = """#!/bin/bash
for rank in 0 1; do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=2 "$@" & tasks[rank]=$!
done
if [ -n "${WARN:-}" ]; then
  until [ -e run/checkpoints/last ]; do sleep 0.05; kill -0 ${tasks[0]} || exit 99; done
  kill -USR1 ${tasks[0]}
fi
worst=0
for rank in 0 1; do wait ${tasks[rank]}; code=$?; echo "task $rank: $code"; [ $code -gt $worst ] && worst=$code; done
exit $worst
"""
SCONTROL = '#!/bin/bash\n[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> asked\n'


def script() -> str:
    found = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@pytest.fixture
def job(tiny_recipe: Path) -> Path:
    """The page's script with a tiny recipe and a free port, and what it calls."""
    prepare(recipe_load.load(str(tiny_recipe)), Path("data/tiny.src-tgt"), workers=1, force=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = script()
    changes = {
        "$((20000 + SLURM_JOB_ID % 20000))": str(port), "runs/wmt14": "run",
        "--recipe wmt14_ende": "--recipe tiny.yaml",
        "janus train": "janus train --device cpu",
        "training.accumulate=1": "training.updates=30",
        "training.batch_tokens=4096": "training.validate_every=100",
    }  # fmt: skip
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    Path("bin").mkdir()
    programs = {"srun": SRUN, "scontrol": SCONTROL, "janus": f'#!/bin/sh\nexec {sys.executable} -m janus_cli "$@"\n'}
    for name, body in {**programs, "job": text}.items():
        file = Path("bin") / name
        file.write_text(body, encoding="utf-8")
        file.chmod(0o755)
    return Path("bin/job").resolve()


def submit(job: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **ENVIRONMENT, "PATH": f"{job.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "n",
        "SLURM_CPUS_PER_TASK": "1",
    }  # fmt: skip
    return subprocess.run(
        [str(job)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
        env={**environment, **more},
    )  # fmt: skip


def test_the_job_queues_itself_again_and_goes_on_to_the_bit(job: Path) -> None:
    assert subprocess.run(["bash", "-n", str(job)], check=False).returncode == 0
    whole = submit(job)
    assert whole.returncode == 0, whole.stdout
    expected = digest(Path("run/checkpoints/step-000030"))
    Path("run").rename("whole")
    assert not Path("asked").exists()
    stopped = submit(job, WARN="1")
    assert stopped.returncode == 138, stopped.stdout
    assert re.findall(r"task \d: (\d+)", stopped.stdout) == ["138", "138"]
    assert Path("asked").read_text(encoding="utf-8") == "requeue 42\n"
    assert not Path("run/checkpoints/step-000030").exists()
    again = submit(job)
    assert again.returncode == 0, again.stdout
    assert digest(Path("run/checkpoints/step-000030")) == expected
