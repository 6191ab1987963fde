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
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test starts in a folder with a corpus and nothing else."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for split, count in (("train", 40), ("valid", 4), ("test", 4)):
        for suffix in ("de", "en"):
            lines = [f"{suffix} {split} {number % 7}\n" for number in range(count)]
            (folder / f"{split}.{suffix}").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def janus(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["preprocess", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def corpus_run(*arguments: str) -> int:
    return janus("--data-dir", "corpus", *SMALL, *arguments)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "corpus" not in path.parts)


def test_without_any_option_it_makes_the_demo(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert janus("--set", "data.synthetic.train=900", "--set", "tokenizer.vocabulary=200") == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "recipe: demo" in said.err
    assert "900 of 900 pairs kept" in said.err
    assert "written to data/demo.src-tgt; next: janus train" in said.err
    recipe = load("demo", ["data.synthetic.train=900", "tokenizer.vocabulary=200"])
    assert len(open_prepared(recipe, Path("data/demo.src-tgt")).train) == 900


def test_own_text_own_place(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus_run("--out", "mine", "--workers", "1") == 0
    assert f"next: janus train {' '.join(SMALL)} --prepared mine\n" in capsys.readouterr().err
    manifest = json.loads(Path("mine/manifest.json").read_text())
    assert manifest["splits"]["train"]["kept"] == 40
    assert manifest["data"]["dir"] == "corpus"
    assert not Path("data").exists()


def test_deduplication_by_set(empty_folder: Path) -> None:
    assert corpus_run("--set", "data.deduplicate=true") == 0
    manifest = json.loads(Path("data/demo.de-en/manifest.json").read_text())
    assert manifest["splits"]["train"]["dropped"] == {"duplicate": 33}


def test_the_seed_reaches_the_text(empty_folder: Path) -> None:
    for seed in ("1", "2"):
        few = ("--set", "data.synthetic.train=50", "--set", "tokenizer.kind=words")
        assert janus(*few, "--seed", seed, "--out", seed) == 0
    first, second = (Path(seed, "valid.source.txt").read_bytes() for seed in "12")
    assert first != second


def test_a_second_time_needs_force(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus_run() == 0
    assert corpus_run() == 2
    said = capsys.readouterr().err
    assert "error: data/demo.de-en holds prepared data already" in said
    assert "hint: replace it with --force" in said
    assert corpus_run("--force") == 0


@pytest.mark.parametrize(
    ("data", "policy", "code", "message"),
    [
        (b"good one\nbad \xff\n", "stop", 3, "error: corpus/train.de:2:5: byte 0xff is not UTF-8"),
        (b"good one\nbad \xff\n", "skip", 0, "train: 1 of 2 pairs kept; dropped: bad_utf8 1"),
        (b"good one\nbad \xff\n", "replace", 0, "train: 2 of 2 pairs kept"),
        (b"good one\n", "stop", 3, "error: corpus/train.de has 1 lines, corpus/train.en has 2"),
        (b"", "stop", 3, "error: corpus/train.de is empty"),
        (b"\n\n", "stop", 3, "every pair of the train split was dropped: empty 2"),
        (
            b"\xef\xbb\xbfa\r\nb\xe2\x80\xa8c\x85\x0b".replace(b"\x85", b"\xc2\x85"),
            "stop",
            0,
            "byte order mark removed",
        ),
        (b"a\nb\x0c\x1c\rc\0d\n", "stop", 0, "train: 2 of 2 pairs kept"),
        (b"a\n\n", "stop", 0, "train: 1 of 2 pairs kept; dropped: empty 1"),
        (b"a\n" + b"b " * 500_000 + b"\n", "stop", 0, "train: 1 of 2 pairs kept; dropped: too_long 1"),
    ],
)
def test_odd_text(
    empty_folder: Path, capsys: pytest.CaptureFixture[str], data: bytes, policy: str, code: int, message: str
) -> None:
    Path("corpus/train.de").write_bytes(data)
    Path("corpus/train.en").write_bytes(b"good one\nbad two\n" if data else b"")
    assert corpus_run("--bad-utf8", policy, "--set", "data.max_ratio=9.0") == code
    assert message in capsys.readouterr().err
    assert (files(empty_folder) == []) == (code != 0)


def test_a_vocabulary_too_large_names_the_largest(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    too_many = ("--set", "tokenizer.kind=sentencepiece", "--set", "tokenizer.vocabulary=5000")
    assert corpus_run(*too_many) == 3
    said = capsys.readouterr().err
    most = said.split("--set tokenizer.vocabulary=")[1].split()[0]
    assert f"allows: at most {most}" in said
    assert corpus_run(*too_many, "--set", f"tokenizer.vocabulary={most}") == 0


def test_a_recipe_whose_text_is_elsewhere(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for extra in ([], ["--dry-run"]):
        assert janus("--recipe", "iwslt14", *extra) == 3
        said = capsys.readouterr().err
        assert "fetched by hand" in said
        assert "prepare-iwslt14.sh" in said  # the recipe's notes
        assert "fetch http" in said
        assert "--data-dir FOLDER" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("--recipe", "demoo"),
        ("--set", "data.nothing=1"),
        ("--workers", "0"),
        ("--bad-utf8", "ignore"),
        ("--seed", "-1"),
    ],
)
def test_wrong_options_are_exit_2_and_write_nothing(
    empty_folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert janus(*arguments) == 2
    assert "error: " in capsys.readouterr().err
    assert files(empty_folder) == []


def test_a_dry_run_checks_and_writes_nothing(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus_run("--dry-run") == 0
    said = capsys.readouterr().err
    assert "would read corpus/train.de: 40 lines" in said
    assert "write everything to data/demo.de-en" in said
    assert janus("--dry-run") == 0
    assert "would make 20,000 + 500 + 500 pairs of text" in capsys.readouterr().err
    Path("corpus/valid.en").write_bytes(b"one\n")
    assert corpus_run("--dry-run") == 3
    assert files(empty_folder) == []


def test_a_dry_run_sees_that_the_place_is_taken(empty_folder: Path) -> None:
    assert corpus_run() == 0
    assert corpus_run("--dry-run") == 2
    assert corpus_run("--dry-run", "--force") == 0


def test_a_full_disk_leaves_nothing_and_no_traceback(empty_folder: Path) -> None:
    small = 'ulimit -f 4; exec "$0" -m janus_cli preprocess --set data.synthetic.train=900 --set tokenizer.kind=words'
    done = subprocess.run(["sh", "-c", small, sys.executable], capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert files(empty_folder) == []
