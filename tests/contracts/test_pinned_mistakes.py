"""What each kind of mistake ends with: its exit code, error and hint on stderr; nothing on stdout, nothing written."""

import shutil
from pathlib import Path

import pytest
from workplace import janus, listing, train

# Exit code and command. Where a `-` follows the code, the error has no hint so far.
MISTAKES = """
2  preprocess --recipe demoo
2  preprocess --recipe bad.yaml
2  preprocess --recipe tiny.yaml
2  preprocess --set data.nothing=1
2  preprocess --workers 0
3  preprocess --data-dir nowhere --out x
3  preprocess --recipe iwslt14
2  train --recipe bad.yaml
2  train --objective jnus
2  train --recipe tiny.yaml --run runs/janus
2  train --resume --run runs/nowhere
2  train --recipe tiny.yaml --from runs/nowhere --run x
2  train --recipe tiny.yaml --run x --device abacus
3  train --recipe tiny.yaml --prepared nowhere --run x
4  train --resume --run runs/damaged
4  train --resume --run runs/janus --set model.width=32
4- train --recipe tiny.yaml --from runs/damaged --run x
2  decode --run nowhere
2  decode --run cmlm --mode ar
2  decode --run janus --beam 0
2  decode --run janus --iters 4
2  decode --run janus --set decoding.beem=2
2  decode --run janus --input short.txt --output bad.yaml
3  decode --run janus --input nowhere.txt
4  decode --run janus --checkpoint step-000099
4- decode --run damaged
2  score short.txt --reference short.txt --metrics blue
3  score nowhere.txt --reference short.txt
3  score short.txt --reference bad.yaml
2  demo --set model.widht=3
2  demo --seed -1
2  recipes show demoo
2  recipes frobnicate
2  inspect nowhere
4- inspect runs/damaged/checkpoints/last
2  average nowhere
2  average janus --last 2
2  average janus --last 0
2  average janus --last 2 --best 2
4- average damaged
2  distill nowhere
2  distill cmlm --out x
2  distill janus --out data/tiny.src-tgt
4- distill damaged --out x
2  export nowhere
2  export janus --output notes --force
2  export cmlm --format ctranslate2 --output x
4- export damaged
2  bench nowhere
2  bench janus --mode sideways
4- bench damaged
2  compare --recipe demoo
2  compare --recipe tiny.yaml --objectives jnus
2  compare --recipe tiny.yaml --steps 0
2  report nowhere
2  report janus --out bad.yaml
2  trian
""".strip().split("\n")


@pytest.fixture(scope="module")
def spoiled(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `tiny` with an untouched run, one whose weights are cut off, one without an AR side, and odd files."""
    root = tmp_path_factory.mktemp("spoiled") / "root"
    shutil.copytree(tiny, root, symlinks=True)
    train(root, "tiny.yaml", "runs/cmlm", "--objective", "cmlm", "--set", "training.updates=1")
    shutil.copytree(root / "runs/janus", root / "runs/damaged", symlinks=True)
    for weights in (root / "runs/damaged/checkpoints").glob("[sa]*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1])
    (root / "bad.yaml").write_text("name: x\nmodul: {}\n")
    (root / "short.txt").write_text("a\n")
    (root / "notes").mkdir()
    (root / "notes/mine.txt").write_text("precious")
    return root


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_with_its_code_and_words(spoiled: Path, mistake: str) -> None:
    code, _, command = mistake.partition(" ")
    before = seen(spoiled)
    found, out, err = janus(spoiled, *command.split())
    starts = [line.split(" ")[0] for line in err.split("\n")]
    assert (found, out) == (int(code.rstrip("-")), ""), err
    assert starts.count("error:") == 1
    assert "hint:" in starts or code.endswith("-")
    assert "Traceback" not in err
    assert seen(spoiled) == before


def seen(root: Path) -> list[str]:
    return [name for name in listing(root) if not name.split("/")[-1].startswith(".")]


def test_force_is_what_makes_a_run_anew(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "copy", symlinks=True)
    train(tmp_path / "copy", "tiny.yaml", "runs/janus", "--force", "--set", "training.updates=1")
    left = listing(tmp_path / "copy/runs/janus/checkpoints")
    assert [name for name in left if "->" in name] == ["best -> step-000001", "last -> step-000001"]
    assert not any("step-000006" in name for name in left)
