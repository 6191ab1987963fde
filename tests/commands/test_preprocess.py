"""`janus preprocess` as a user runs it: exit codes, messages, what is written where."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from janus_cli.cli import main
from janus_cli.data.prepared import open_prepared
from janus_cli.recipe_load import load

SMALL = ("--set", "tokenizer.kind=words", "--set", "data.source=de", "--set", "data.target=en")


@pytest.fixture(autouse=True)
def folder(empty_folder: Path) -> Path:
    """Every test starts in a folder with a corpus and nothing else."""
    Path("corpus").mkdir()
    for split, count in (("train", 40), ("valid", 4), ("test", 4)):
        for suffix in ("de", "en"):
            Path(f"corpus/{split}.{suffix}").write_text("".join(f"{suffix} {split} {n % 7}\n" for n in range(count)))
    return empty_folder


def janus(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["preprocess", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def corpus_run(*arguments: str) -> int:
    return janus("--data-dir", "corpus", *SMALL, *arguments)


def written() -> list[Path]:
    return [path for path in Path().rglob("*") if "corpus" not in path.parts]


def test_without_any_option_it_makes_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert janus("--set", "data.synthetic.train=900", "--set", "tokenizer.vocabulary=200") == 0
    said = capsys.readouterr()
    assert said.out == ""
    for words in ("recipe demo", "900 of 900 pairs kept", "written to data/demo.src-tgt; next: janus train"):
        assert words in said.err
    recipe = load("demo", ["data.synthetic.train=900", "tokenizer.vocabulary=200"])
    assert len(open_prepared(recipe, Path("data/demo.src-tgt")).train) == 900


def test_own_text_own_place_own_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus_run("--out", "mine", "--workers", "1", "--set", "data.deduplicate=true") == 0
    words = [*SMALL, "--set", "data.deduplicate=true", "--prepared", "mine"]
    assert f"next: janus train {' '.join(words)}\n" in capsys.readouterr().err
    manifest = json.loads(Path("mine/manifest.json").read_text())
    assert (manifest["splits"]["train"]["kept"], manifest["splits"]["train"]["dropped"]) == (7, {"duplicate": 33})
    assert manifest["data"]["dir"] == "corpus"
    assert not Path("data").exists()
    for seed in ("1", "2"):
        few = ("--set", "data.synthetic.train=50", "--set", "tokenizer.kind=words")
        assert janus(*few, "--seed", seed, "--out", seed) == 0
    assert Path("1/valid.source.txt").read_bytes() != Path("2/valid.source.txt").read_bytes()


def test_a_second_time_needs_force(capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus_run() == 0
    for extra in ([], ["--dry-run"]):
        assert corpus_run(*extra) == 2
        said = capsys.readouterr().err
        assert "error: data/demo.de-en holds prepared data already" in said
        assert "hint: replace it with --force" in said
        assert corpus_run("--force", *extra) == 0


@pytest.mark.parametrize(
    ("data", "policy", "code", "message"),
    [
        (b"good one\nbad \xff\n", "stop", 3, "error: corpus/train.de:2:5: byte 0xff is not UTF-8"),
        (b"good one\nbad \xff\n", "skip", 0, "train: 1 of 2 pairs kept; dropped: bad_utf8 1"),
        (b"good one\nbad \xff\n", "replace", 0, "train: 2 of 2 pairs kept"),
        (b"good one\n", "stop", 3, "error: corpus/train.de has 1 line, corpus/train.en has 2 lines"),
        (b"", "stop", 3, "error: corpus/train.de is empty"),
        (b"\n\n", "stop", 3, "every pair of the train split was dropped: empty 2"),
        (b"\xef\xbb\xbfa\r\nb\xe2\x80\xa8c\xc2\x85\x0b", "stop", 0, "byte order mark removed"),
        (b"a\nb\x0c\x1c\rc\0d\n", "stop", 0, "train: 2 of 2 pairs kept"),
        (b"a\n\n", "stop", 0, "train: 1 of 2 pairs kept; dropped: empty 1"),
        (b"a\n" + b"b " * 500_000 + b"\n", "stop", 0, "train: 1 of 2 pairs kept; dropped: too_long 1"),
    ],
)
def test_odd_text(capsys: pytest.CaptureFixture[str], data: bytes, policy: str, code: int, message: str) -> None:
    Path("corpus/train.de").write_bytes(data)
    Path("corpus/train.en").write_bytes(b"good one\nbad two\n" if data else b"")
    assert corpus_run("--bad-utf8", policy, "--set", "data.max_ratio=9.0") == code
    assert message in capsys.readouterr().err
    assert (not written()) == (code != 0)


def test_a_vocabulary_too_large_names_the_largest(capsys: pytest.CaptureFixture[str]) -> None:
    too_many = ("--set", "tokenizer.kind=sentencepiece", "--set", "tokenizer.vocabulary=5000")
    assert corpus_run(*too_many) == 3
    said = capsys.readouterr().err
    most = said.split("--set tokenizer.vocabulary=")[1].split()[0]
    assert f"allows: at most {most}" in said
    assert corpus_run(*too_many, "--set", f"tokenizer.vocabulary={most}") == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--recipe", "demoo"), 2, "demoo"),
        (("--set", "data.nothing=1"), 2, "data.nothing"),
        (("--workers", "0"), 2, "workers"),
        (("--bad-utf8", "ignore"), 2, "ignore"),
        (("--seed", "-1"), 2, "seed"),
        # The recipe's notes, its addresses, and what to do with the text.
        (("--recipe", "iwslt14"), 3, "fetched by hand|prepare-iwslt14.sh|fetch http|--data-dir FOLDER"),
        (("--recipe", "iwslt14", "--dry-run"), 3, "fetched by hand|prepare-iwslt14.sh|fetch http|--data-dir FOLDER"),
        (("--data-dir", "corpus", "--dry-run"), 3, "corpus/train.src (or .gz) is not there"),
        (("--data-dir", "corpus", *SMALL, "--out", "corpus/train.de/x"), 3, "cannot write corpus/train.de/x"),
        (("--data-dir", "corpus", *SMALL, "--dry-run"), 0, "would read corpus/train.de: 40 lines|data/demo.de-en"),
        (("--dry-run",), 0, "would make 20,000 + 500 + 500 pairs of text"),
    ],
)
def test_mistakes_and_dry_runs_write_nothing(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    assert janus(*arguments) == code
    said = capsys.readouterr().err
    assert ("error: " in said) == (code != 0)
    for word in words.split("|"):
        assert word in said
    assert not written()


def test_a_full_disk_leaves_nothing_and_no_traceback() -> None:
    small = 'ulimit -f 4; exec "$0" -m janus_cli preprocess --set data.synthetic.train=900 --set tokenizer.kind=words'
    done = subprocess.run(["sh", "-c", small, sys.executable], capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not written()
