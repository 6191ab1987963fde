"""A model card tells of exactly the file beside it, and of a state of the code that can be had again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from janus_cli import recipe_load, runs
from tests.helpers import Janus, read_json, sets

ROOT = Path(__file__).parents[2]
PLACES = (
    'data.files={"train": ["/secret/u/a.de", "x/../../secret/b.en"]}',
    "data.files.test=[/secret/my text/a.de, ~/secret/b.en]",
)


def git(*words: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *author, *words], capture_output=True, text=True, check=True, cwd="clone").stdout


def publish(*words: str, code: Path = Path("clone")) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(code.resolve())}
    options = ["run", "tiny", "--trained-at", "HEAD", "--decode", "--mode nar --iters 2", *words]
    return subprocess.run(
        [sys.executable, "clone/benchmarks/publish.py", *options],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_card_tells_of_the_file_beside_it(trained: Path, shell: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("janus_cli", "benchmarks", "recipes"):
        shutil.copytree(ROOT / name, Path("clone") / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", "pyproject.toml"):
        shutil.copy(ROOT / name, "clone")
    git("init", "-q")
    refused = publish()
    assert (refused.returncode, "the work tree has changes" in refused.stderr) == (2, True), refused.stderr
    git("add", ".")
    git("commit", "-q", "-m", "all")
    Path("about.md").write_text("For tests. Licence: none.\n")
    refused = publish("--about", "about.md", code=ROOT)
    assert (refused.returncode, "PYTHONPATH=" in refused.stderr) == (2, True), refused.stderr
    assert not Path("clone/pretrained").exists()
    log = Path("run/log.jsonl")
    begun, *others = map(json.loads, log.read_text().splitlines())
    begun["command"] = ["train", "--recipe", "../../secret/u/r.yaml", "--data-dir=/secret/u/text", *sets(*PLACES)]
    log.write_text("".join(json.dumps(entry) + "\n" for entry in (begun, *others)))
    done = publish("--about", "about.md", *sets("decoding.length_beam=3"))
    assert done.returncode == 0, done.stderr
    text = Path(done.stdout.strip()).read_text()
    monkeypatch.setattr(runs, "PRETRAINED", Path("clone/pretrained").resolve())
    assert shell("decode", "--run", "pretrained:tiny", "--mode", "nar", "--iters", "2")[0] == 0
    scores = json.loads(shell("score", "--run", "pretrained:tiny", "--json")[1])["scores"]
    passes = read_json(next(Path("runs/pretrained-tiny/decode").glob("*.json")))["passes_mean"]
    (row,) = [line for line in text.splitlines() if "--iters 2" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "`janus decode --run pretrained:tiny --mode nar --iters 2`",
        *(f"{score['value']:.2f}" for score in scores),
        f"{passes:.1f}",
    ]
    assert "Licence: none." in text
    assert recipe_load.load("clone/pretrained/tiny/recipe.yaml").decoding.length_beam == 3
    assert text.count(git("rev-parse", "HEAD").strip()) == 2
    for row in ("| seed | 1 |", "| updates | 6 |"):
        assert row in text
    assert "r.yaml --data-dir=text" in text
    assert [place for place in ("secret", str(Path.cwd())) if place in text] == []
    size = Path("clone/pretrained/tiny/model.safetensors").stat().st_size
    assert f"{size:,}" in text
    exported = {f"pretrained/tiny/{file.name}" for file in Path("clone/pretrained/tiny").iterdir()}
    Path("clone/pretrained/tiny/report.html").write_text("of a command that was tried on the folder")
    assert set(git("ls-files", "--others", "--exclude-standard").split()) == exported
