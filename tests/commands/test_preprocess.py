"""`janus preprocess` as a user runs it: exit codes, messages, what is written where."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from janus_cli.data.prepared import open_prepared
from janus_cli.recipe_load import load
from tests.helpers import Janus, Silent, ends, read_json, silent

SMALL = ("--set", "tokenizer.kind=words", "--set", "data.source=de", "--set", "data.target=en")
CORPUS = ("--data-dir", "corpus", *SMALL)


@pytest.fixture(autouse=True)
def folder(empty_folder: Path) -> Path:
    """Every test starts in a folder with a corpus and nothing else."""
    Path("corpus").mkdir()
    for split, count in (("train", 40), ("valid", 4), ("test", 4)):
        for suffix in ("de", "en"):
            Path(f"corpus/{split}.{suffix}").write_text("".join(f"{suffix} {split} {n % 7}\n" for n in range(count)))
    return empty_folder


@pytest.fixture
def janus(shell: Janus) -> Silent:
    """Exit code and stderr of `janus preprocess`; stdout stays empty."""
    return silent(shell, "preprocess")


def written() -> list[Path]:
    return [path for path in Path().rglob("*") if "corpus" not in path.parts]


def test_without_any_option_it_makes_the_demo(janus: Silent) -> None:
    said = ends(janus("--set", "data.synthetic.train=900", "--set", "tokenizer.vocabulary=200"), 0)
    for words in ("recipe demo", "900 of 900 pairs kept", "written to data/demo.src-tgt; next: janus train"):
        assert words in said
    recipe = load("demo", ["data.synthetic.train=900", "tokenizer.vocabulary=200"])
    assert len(open_prepared(recipe, Path("data/demo.src-tgt")).train) == 900


def test_own_text_own_place_own_settings(janus: Silent) -> None:
    code, said = janus(*CORPUS, "--out", "mine", "--workers", "1", "--set", "data.deduplicate=true")
    words = [*SMALL, "--set", "data.deduplicate=true", "--prepared", "mine"]
    assert (code, f"next: janus train {' '.join(words)}\n" in said) == (0, True)
    manifest = read_json("mine/manifest.json")
    assert (manifest["splits"]["train"]["kept"], manifest["splits"]["train"]["dropped"]) == (7, {"duplicate": 33})
    assert manifest["data"]["dir"] == "corpus"
    assert not Path("data").exists()
    prints = []
    few = ("--set", "data.synthetic.train=50", "--set", "tokenizer.kind=words")
    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert janus(*few, "--seed", seed, "--out", out)[0] == 0
        assert not Path(out, "text").exists()
        prints.append(open_prepared(load("demo", few[1::2]), Path(out)).train.fingerprint)  # training has its own seeds
    assert prints[0] == prints[1] != prints[2]


def test_only_prepared_data_is_replaced_and_only_with_force(janus: Silent) -> None:
    assert janus(*CORPUS)[0] == 0
    place = Path("data/demo.de-en")
    before = [path.read_bytes() for path in sorted(place.iterdir())]
    for extra in ([], ["--dry-run"], ["--set", "tokenizer.vocabulary=9"]):
        code, said = janus(*CORPUS, *extra)
        assert code == 2
        assert "error: data/demo.de-en holds prepared data already" in said
        assert "hint: replace it with --force" in said
        assert [path.read_bytes() for path in sorted(place.iterdir())] == before
        assert janus(*CORPUS, "--force", "--dry-run", *extra)[0] == 0
        code, said = janus("--data-dir", "corpse", *extra)
        assert (code, "corpse/train." in said) == (3, True), "a wrong folder is no reason for --force"
    assert janus(*CORPUS, "--force", "--set", "tokenizer.vocabulary=9")[0] == 0
    assert read_json(place / "manifest.json")["vocabulary"] == {"source": 9, "target": 9}
    for change in ((place / "recipe.yaml").touch, (place / "manifest.json").unlink):
        change()  # now it is a run, or something else
        ends(janus(*CORPUS, "--force"), 2, "holds something other")


PIECES = ("--set", "tokenizer.kind=sentencepiece", "--set", "tokenizer.vocabulary=500")


@pytest.mark.parametrize(
    ("files", "options", "code", "words"),
    [
        ({"train.de": b"good one\nbad \xff\n"}, (), 3, "error: corpus/train.de:2:5: byte 0xff is not UTF-8"),
        ({"train.de": b"a\nbad \xff\n"}, ("--bad-utf8", "skip"), 0, "train: 1 of 2 pairs kept; dropped: bad_utf8 1"),
        ({"train.de": b"a\nbad \xff\n"}, ("--bad-utf8", "replace"), 0, "train: 2 of 2 pairs kept; mended: 1 line"),
        ({"train.de": b"good one\n"}, (), 3, "error: corpus/train.de has 1 line, corpus/train.en has 2 lines; "),
        ({"train.de": b"", "train.en": b""}, (), 3, "error: corpus/train.de is empty"),
        ({"valid.en": None}, (), 3, "valid.en (or .gz) is not there"),
        ({"valid.de": b"\n", "valid.en": b"a\n"}, (), 3, "was dropped or left out of the losses: empty 1"),
        ({"train.de": b"a\n\n", "train.en": b"\nb\n"}, (), 3, "every pair of the train split was dropped: empty 2|"
         "hint: is it the right text?\n"),
        ({"train.de": b"a\n", "train.en": b"a " * 10}, (), 3, "was dropped: ratio 1|hint: is it the right text? If "
         "so, loosen data.max_ratio 9 (raise it|--set data.task=generation)\n"),
        ({"train.de": b"a\n", "train.en": b"a " * 10}, ("--set", "data.task=generation"), 3,
         "was dropped: ratio 1|loosen data.max_ratio 9 (--set data.max_ratio=null"),
        ({"train.de": b"a\n\n", "train.en": b"a " * 200 + b"\n\n"}, (), 3,
         "too_long 1|so, loosen data.max_tokens 60 (raise it"),
        ({"train.de": b"\n", "train.en": b"\n"}, PIECES, 3, "every pair is empty"),
        ({"train.de": b"a\nb\n", "train.en": b"\n \n"}, PIECES, 3, "the target of every pair is empty"),
        ({"train.de": b"\xef\xbb\xbfa\r\nb\xe2\x80\xa8c\xc2\x85\x0b"}, (), 0, "byte order mark removed|2 of 2 pairs"),
        ({"train.de": b"a\n" + b"b " * 500_000}, (), 0, "train: 1 of 2 pairs kept; dropped: too_long 1"),
    ],
)  # fmt: skip
def test_odd_text(
    janus: Silent, files: dict[str, bytes | None], options: tuple[str, ...], code: int, words: str
) -> None:
    """Text that cannot be used is refused by name, and nothing is written."""
    if "train.de" in files:
        files = {"train.en": b"good one\nbad two\n", **files}
    for name, data in files.items():
        if data is None:
            Path("corpus", name).unlink()
        else:
            Path("corpus", name).write_bytes(data)
    found, said = janus(*CORPUS, "--set", "data.max_ratio=9.0", "--out", "deep/out", *options)
    assert (found, [word for word in words.split("|") if word not in said]) == (code, [])
    assert bool(written()) == (code == 0)


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
        (("--data-dir", "nowhere"), 3, "nowhere/train.src (or .gz) is not there"),
        ((*CORPUS, "--out", "corpus/train.de/x"), 2, "corpus/train.de: File exists"),
        ((*CORPUS, "--dry-run"), 0, "would read corpus/train.de: 40 lines|data/demo.de-en"),
        (("--dry-run",), 0, "would make 20,000 + 500 + 500 pairs of text"),
    ],
)
def test_mistakes_and_dry_runs_write_nothing(janus: Silent, arguments: tuple[str, ...], code: int, words: str) -> None:
    found, said = janus(*arguments)
    assert (found, "error: " in said) == (code, code != 0)
    for word in words.split("|"):
        assert word in said
    assert not written()


def test_a_full_disk_leaves_nothing_and_no_traceback() -> None:
    small = 'ulimit -f 4; exec "$0" -m janus_cli preprocess --set data.synthetic.train=900 --set tokenizer.kind=words'
    whole = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # else half a .pyc of janus may be left
    done = subprocess.run(["sh", "-c", small, sys.executable], env=whole, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not written()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train.de": "a b\n", "train.en": "a b c\n"}, "warning: train: targets are longer than sources (mean 3.0"),
        ({"valid.de": "a\n" * 4}, "warning: valid: unlike train in length (mean 1.0 source tokens, in train 3.0)"),
        ({"test.de": "a b c\nd e f\na b c\na b c\n"}, "test: 2 of 4 lines repeat the source of another; "),
        ({"test.refs.tsv": "a\n\t\na\tb\tc\na\n"}, "test: 5 references, 0 to 3 a line"),
    ],
)  # fmt: skip
def test_what_may_be_a_wrong_choice_of_files_is_said(janus: Silent, files: dict[str, str], words: str) -> None:
    Path("corpus/test.de").write_text("a b 1\na b 2\na b 3\na b 4\n")
    options = (*CORPUS, "--set", "data.task=generation", "--force", "--out", "out")
    assert words.partition(" (")[0] not in janus(*options)[1]
    for name, text in files.items():
        Path("corpus", name).write_text(text)
    ends(janus(*options), 0, words)


def test_targets_that_are_a_little_longer_are_usual(janus: Silent) -> None:
    Path("corpus/train.de").write_text("a b c d\n")
    Path("corpus/train.en").write_text("a b c d e\n")
    code, said = janus(*CORPUS, "--set", "data.task=generation", "--force", "--out", "out")
    assert (code, "longer than sources" in said) == (0, False), said


@pytest.mark.parametrize("references", [False, True])
def test_lines_without_a_reference_are_counted(janus: Silent, references: bool) -> None:
    name, side = ("test.refs.tsv", "reference") if references else ("test.en", "target")
    Path("corpus", name).write_text("one\ttwo\n\t\nthree\t\n\tfour\n" if references else "one\n\nthree\n  \n")
    Path("corpus/valid.en").write_text("one\n\nthree\nfour\n")
    said = ends(janus(*CORPUS, "--out", "out"), 0)
    fate = "they are decoded and scored; chrF leaves such lines out, most metrics count"
    assert f"warning: test: {1 if references else 2} of 4 lines have an empty {side}: {fate}" in said
    assert f"warning: valid: 1 of 4 lines have an empty target: {fate}" in said
