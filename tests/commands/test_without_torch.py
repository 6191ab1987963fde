"""`janus decode` imports torch, which takes a second, only where torch has to search; the texts are the same."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.numpy import save_file

from janus_cli import device
from janus_cli.errors import UsageError
from janus_cli.training import draft_head
from janus_cli.training.checkpoint import fingerprint
from tests.helpers import Janus

SCRIPT = """
import json, sys
from janus_cli.cli import main
for number, words in enumerate(json.loads(sys.argv[1])):
    try:
        main(["decode", "--input", "data/demo/test.source.txt", "--out", f"{number}.txt", *words])
    except SystemExit as stopped:
        print(stopped.code, "torch" in sys.modules)
"""
WITHOUT = [
    "--beam 1", "--nbest 2 --jsonl --threads 1", "--beam 1 --precision int8", "--mode nar --iters 4",
    "--mode nar --rerank ar", "--mode spec", "--run ar --beam 1", "--run cmlm", "--run xlnet --set decoding.beam=2",
]  # fmt: skip
WITH = ["--mode nar --iters 4 --trace", "--beam 1 --engine torch", "--run bang --mode semi", "--temperature 1"]


def ended(commands: Iterable[str]) -> list[str]:
    """Of each, one after another in a process: its exit code, and whether torch was imported by then."""
    words = json.dumps([[*each.split(), "--force", "--device", "cpu"] for each in commands])
    done = subprocess.run([sys.executable, "-c", SCRIPT, words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


def test_torch_is_imported_where_it_searches_only(janus: Janus) -> None:
    assert ended(WITHOUT) == ["0 False"] * len(WITHOUT)
    greedy, refined = (Path(f"{WITHOUT.index(each)}.txt").read_bytes() for each in ("--beam 1", "--mode nar --iters 4"))
    assert len({*greedy.splitlines()}) > 1
    assert ended(WITH) == ["0 True"] * len(WITH)
    assert (Path("1.txt").read_bytes(), Path("0.txt").read_bytes()) == (greedy, refined)


def test_a_draft_head_needs_no_torch(janus: Janus) -> None:
    folder = Path("runs/janus/checkpoints/last").resolve()
    head = {"before": (16, 4), "after": (16, 4), "bias": (250,), "distances": (4,), "scale": (1,)}
    save_file(
        {name: torch.randn(shape).numpy() for name, shape in head.items()}, folder / draft_head.FILE,
        {draft_head.WEIGHTS: fingerprint(folder)},
    )  # fmt: skip
    assert ended(["--beam 1", "--mode spec"]) == ["0 False"] * 2
    assert Path("0.txt").read_bytes() == Path("1.txt").read_bytes()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere torch counts in other ways")
@pytest.mark.parametrize("given", ["", "1"])
def test_there_are_as_many_threads_as_torch_would_take(given: str) -> None:
    code = "from janus_cli.system import threads; before = threads(); import torch; print(before, threads())"
    others = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment = {**others, **({"OMP_NUM_THREADS": given} if given else {})}
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=environment)
    before, after = done.stdout.split()
    assert before == after


def test_torch_says_which_gpu_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device.name_device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda:0", "cuda:1"]
    for driver, chosen in ((True, "cuda:0"), (False, "cpu")):
        monkeypatch.setattr(device, "may_have_gpu", lambda driver=driver: driver)
        assert device.name_device("auto") == chosen
    with pytest.raises(UsageError, match="cuda:2"):
        device.name_device("cuda:2")
