"""`janus preprocess` of every form that text may have: what is prepared is the same, and what is said of mistakes."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from janus_cli.data import extract, tables
from janus_cli.data.references import texts_in
from janus_cli.data.stored import digest
from tests.helpers import Janus, Silent, ends, read_json, silent, write_lines

SETTINGS = ("--set", "tokenizer.kind=words", "--set", "data.source=de", "--set", "data.target=en", "--workers", "1")
COUNTS = {"train": 40, "valid": 4, "test": 3}


@pytest.fixture
def janus(empty_folder: Path, shell: Janus) -> Silent:
    """Exit code and stderr of `janus preprocess`."""
    return silent(shell, "preprocess", *SETTINGS)


def pairs(split: str) -> list[tuple[str, str]]:
    return [(f"der {split} {n}, „{n % 7}“", f'the {split}; "{n % 7}"') for n in range(COUNTS[split])]


def aligned(folder: str = "corpus") -> Path:
    Path(folder).mkdir()
    for split in COUNTS:
        for side, suffix in enumerate(("de", "en")):
            text = "".join(f"{pair[side]}\n" for pair in pairs(split))
            Path(folder, f"{split}.{suffix}").write_text(text, encoding="utf-8")
    return Path(folder)


def ids_and_text(folder: str) -> dict[str, str]:
    """Everything that was prepared but for the manifest and what depends on the files that it was read from."""
    found = {path.name: digest(path) for path in Path(folder).iterdir() if path.suffix in (".npy", ".txt")}
    assert len(found) > 8
    return found


def rows(split: str) -> list[dict[str, Any]]:
    return [{"id": n, "en": target, "de": source} for n, (source, target) in enumerate(pairs(split))]


def as_csv(path: Path, found: list[dict[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(found[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(found)


def as_jsonl(path: Path, found: list[dict[str, Any]]) -> None:
    write_lines(path, (json.dumps(row) for row in found))


def as_nested_jsonl(path: Path, found: list[dict[str, Any]]) -> None:
    as_jsonl(path, [{"translation": {"de": row["de"], "en": row["en"]}} for row in found])


def as_tsv(path: Path, found: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{row['id']}\t{row['de']}\t{row['en']}\n" for row in found), encoding="utf-8")


def as_parquet(path: Path, found: list[dict[str, Any]]) -> None:
    pytest.importorskip("pyarrow.parquet").write_table(pytest.importorskip("pyarrow").Table.from_pylist(found), path)


def as_data_set(path: Path, found: list[dict[str, Any]]) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist(found)
    path.mkdir()
    with pa.ipc.new_stream(path / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))


FORMS: dict[str, tuple[Callable[[Path, list[dict[str, Any]]], object], str]] = {
    ".csv": (as_csv, ""),
    ".CSV": (lambda path, found: as_csv(path, found, ";"), "data.columns=[de,en]"),
    ".tsv": (as_tsv, "data.columns=[2,3]"),
    ".jsonl": (as_jsonl, ""),
    ".json": (as_nested_jsonl, "data.columns=[translation.de,translation.en]"),
    ".ndjson.gz": (as_nested_jsonl, ""),
    ".parquet": (as_parquet, "data.columns=[de,en]"),
    "": (as_data_set, ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_gives_what_aligned_text_gives(janus: Silent, form: str) -> None:
    write, columns = FORMS[form]
    aligned()
    assert janus("--data-dir", "corpus", "--out", "plain")[0] == 0
    Path("tables").mkdir()
    for split in COUNTS:
        path = Path("tables", f"{split}{form}")
        write(path, rows(split))
        if form.endswith(".gz"):
            path.write_bytes(gzip.compress(path.read_bytes()))
    options = ("--set", columns) if columns else ()
    said = ends(janus("--data-dir", "tables", "--out", "out", *options), 0)
    assert ids_and_text("out") == ids_and_text("plain")
    assert said.count("; columns ") == 3, "each table is said"
    manifest = read_json("out/manifest.json")
    text = manifest["splits"]["train"]["text"]
    assert text["source"]["path"] == text["target"]["path"]
    assert Path(text["source"]["path"]).name.startswith("train")
    assert text["source"]["sha256"] == digest(Path(text["source"]["path"]))
    assert not Path("out/text").exists()


def test_files_are_named_directly(janus: Silent, shell: Janus) -> None:
    aligned()
    assert janus("--data-dir", "corpus", "--out", "plain")[0] == 0
    as_csv(Path("held out.csv"), rows("valid"))
    as_tsv(Path("wd_20"), rows("test"))  # no suffix
    more = ("--set", "data.columns=[de,en]")
    files = ("--train", "corpus/train.de", "corpus/train.en", "--valid", "held out.csv", "--test=corpus/test.de")
    said = ends(janus(*files, "corpus/test.en", "--out", "out", *more), 0)
    assert ids_and_text("out") == ids_and_text("plain")
    kept = read_json("out/manifest.json")["data"]["files"]
    assert kept["train"] == ["corpus/train.de", "corpus/train.en"]
    assert kept["valid"] == ["held out.csv"]
    assert "--train" not in said.split("next: ")[1], "the recipe of the training needs no files"
    # What is not named comes from the folder; a table is recognised without a suffix.
    code, said = janus("--data-dir", "corpus", "--test", "wd_20", "--out", "two", "--set", "data.columns=[2,3]")
    assert code == 0, said
    assert ids_and_text("two") == ids_and_text("plain")
    assert "wd_20: TSV, no header; columns 2, 3" in said
    ends(janus(*files, "--dry-run", *more), 0, "would read held out.csv, columns 'de', 'en': 4 pairs")
    # Training finds the data by the recipe alone, and says how it was made if it no longer fits.
    Path("r.yaml").write_text("name: r\ndata: {source: de, target: en}\ntokenizer: {kind: words}\n", encoding="utf-8")
    assert (
        shell("preprocess", "--recipe", "r.yaml", *files[:3], "--valid", "corpus/valid.de", "corpus/valid.en")[0] == 0
    )
    assert (
        shell("train", "--recipe", "r.yaml", "--dry-run", "--set", "model.width=16", "--set", "model.heads=2")[0] == 0
    )
    Path("corpus/train.de").write_text("changed\n" * 40, encoding="utf-8")
    code, _, err = shell("train", "--recipe", "r.yaml", "--dry-run")
    assert (code, "--train corpus/train.de corpus/train.en --valid corpus/valid.de corpus/valid.en" in err) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("--train corpus/train.de corpus/train.en", 3, "no files for valid"),
        ("--train corpus/train.de nowhere --valid corpus/valid.de corpus/valid.en", 3, "nowhere does not exist"),
        ("--train plain.txt --valid corpus/valid.de corpus/valid.en", 3, "plain.txt is no table"),
        ("--data-dir corpus --train corpus/train.de", 3, "; of aligned text, name both files"),
        ("--train a b c d", 2, "a split is at most three files"),
        ("--train --out x", 2, "--train names no file"),
        ("--data-dir corpus --train x.csv corpus/train.en", 3, "x.csv is a table (CSV), not one side of aligned text"),
        ("--data-dir corpus --test x.csv", 3, "has no column 'de' or 'en'; its columns: 1 'german', 2 'english'"),
        ("--data-dir corpus --test corpus/test.de r.csv", 3, "r.csv (CSV) has no column of references"),
        ("--data-dir corpus --test x.jsonl --set data.columns=[de]", 2, "data: columns needs a source and a target"),
        ("--data-dir corpus --test corpus/test.de corpus/valid.en", 3, "test.de has 3 lines, corpus/valid.en has 4"),
        ("--data-dir corpus --test bad.tsv", 3, "bad.tsv:2:3: byte 0xff is not UTF-8"),
        ("--data-dir corpus --valid corpus/valid.de corpus/valid.en RUN", 3, "RUN does not exist"),
        ("--data-dir corpus --train corpus/train.de corpus/train.en plain.txt", 2, "no third file (got plain.txt)"),
        ("--data-dir corpus --valid corpus/valid.de bad.tsv plain.txt", 3, "bad.tsv is a table (TSV), not one side"),
        ("--data-dir corpus --test x.csv --set data.columns=[0,1]", 2, "columns count from 1 (got 0, 1)"),
        ("--data-dir corpus --train pipe", 3, "pipe is a pipe or a device"),
        ("--data-dir corpus --test corpus/test.de pipe.tsv", 3, "pipe.tsv is a pipe or a device"),
    ],
)  # fmt: skip
def test_mistakes(janus: Silent, arguments: str, code: int, words: str) -> None:
    aligned()
    Path("x.csv").write_text("german,english\na,b\n")
    Path("x.jsonl").write_text('{"de": "a"}\n')
    Path("bad.tsv").write_bytes(b"a\tb\nc\t\xff\n")
    Path("r.csv").write_text("id,human\n1,a\n")
    Path("plain.txt").write_text("a line\nanother, longer line\n")
    os.mkfifo("pipe")
    os.mkfifo("pipe.tsv")
    said = ends(janus(*arguments.split(), "--out", "out"), code, words, "hint: ")
    assert "--reference-column" not in said, "preprocess has no such option"
    assert not Path("out").exists()


def test_bytes_that_are_not_utf8_in_a_table_follow_the_option(janus: Silent) -> None:
    aligned()
    Path("t.csv").write_bytes(b'de,en\na,"b\nB"\nc,d\xff\n')
    for policy, words in (("skip", "train: 1 of 2 pairs kept; dropped: bad_utf8 1"), ("replace", "mended: 1 line")):
        code, said = janus("--data-dir", "corpus", "--train", "t.csv", "--bad-utf8", policy, "--out", policy)
        assert (code, words in said) == (0, True), said
        assert "t.csv: line ends inside 1 text became spaces" in said


def test_a_table_that_is_replaced_while_it_is_read_is_noticed(janus: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    aligned()
    as_csv(Path("t.csv"), rows("train"))
    as_csv(Path("other.csv"), rows("train")[:-1])

    def replace(cells: list[tables.Cell]) -> list[str]:
        if Path("other.csv").exists():
            Path("other.csv").replace("t.csv")
        return texts_in(cells)

    monkeypatch.setattr(extract, "texts_in", replace)
    ends(janus("--data-dir", "corpus", "--train", "t.csv", "--out", "out"), 3, "t.csv was changed while it was read")


def test_aligned_text_goes_before_a_table_of_its_name(janus: Silent) -> None:
    folder = aligned()
    assert janus("--data-dir", "corpus", "--out", "plain")[0] == 0
    Path(folder, "test.json").write_text('{"de": "other", "en": "text"}\n')
    code, said = janus("--data-dir", "corpus", "--out", "out")
    assert code == 0
    assert "corpus/test.json is not read: the test split is corpus/test.de and corpus/test.en" in said
    assert ids_and_text("out") == ids_and_text("plain")
    Path(folder, "test.en").unlink()
    code, said = janus("--data-dir", "corpus", "--dry-run")
    assert (code, "corpus/test.de is not read: the test split is corpus/test.json" in said) == (0, True), said
    Path(folder, "test.json").write_text('{"de": "other"}\n')
    code, said = janus("--data-dir", "corpus", "--dry-run")
    assert (code, "corpus/test.json is not read: the test split is corpus/test.de" in said) == (0, True), said
    Path(folder, "train.refs.tsv").write_text("a\n" * COUNTS["train"])
    ends(janus("--data-dir", "corpus", "--dry-run"), 0, "corpus/train.refs.tsv is not read: the train split is")
    # Where it is not clear, both are named.
    for suffix in ("de", "en"):
        Path(folder, f"valid.{suffix}").unlink()
    as_csv(Path(folder, "valid.csv"), rows("valid"))
    as_jsonl(Path(folder, "valid.jsonl"), rows("valid"))
    code, said = janus("--data-dir", "corpus", "--out", "none")
    assert (code, "corpus/valid.csv and corpus/valid.jsonl could both be the valid split" in said) == (3, True)


@pytest.mark.parametrize("text", ['{"bleu": 30}\n', "[1, 2]\n", ""])
def test_a_json_that_only_has_a_split_s_name_is_no_split(janus: Silent, text: str) -> None:
    folder = aligned()
    for suffix in ("de", "en"):
        Path(folder, f"test.{suffix}").unlink()
    Path(folder, "test.json").write_text(text)
    code, said = janus("--data-dir", "corpus", "--dry-run")
    assert (code, "corpus/test.json is not read: it has no source" in said) == (0, True), said
    assert "no test split" in said
    as_csv(Path(folder, "test.csv"), rows("test"))
    code, said = janus("--data-dir", "corpus", "--dry-run")
    assert (code, "corpus/test.json is not read: the test split is corpus/test.csv" in said) == (0, True), said


def test_a_header_that_is_taken_for_text_is_warned_of(janus: Silent) -> None:
    aligned()
    for split in ("train", "valid"):
        lines = [f"{row['de']}\t{row['en']}\n" for row in rows(split)]
        Path(f"{split}.tsv").write_text("".join(["german\tenglish\n", *lines]))
    named = ("--data-dir", "corpus", "--train", "train.tsv", "--valid", "valid.tsv", "--out", "out", "--force")
    ends(janus(*named), 0, "if it is a header")
    code, said = janus(*named, "--set", "data.columns=[german,english]", "--test", "valid.tsv")
    assert (code, "if it is a header" in said) == (0, False), said


def test_a_dry_run_counts_a_file_with_several_targets_once(janus: Silent) -> None:
    aligned()
    several = [{"de": row["de"], "en": [row["en"], f"{row['en']} {n}"]} for n, row in enumerate(rows("train"))]
    as_jsonl(Path("train.jsonl"), several)
    as_jsonl(Path("valid.jsonl"), several[:4])
    named = ("--data-dir", "corpus", "--train", "train.jsonl", "--valid", "valid.jsonl", "--dry-run")
    code, said = janus(*named)
    told = [line for line in said.splitlines() if ".jsonl" in line and "would read" in line]
    assert (code, len(told)) == (0, 2), said
    assert f" {2 * len(several)} pairs" in told[0], "as many as `preprocess` finds"
    assert " 4 pairs" in told[1]


def test_pairs_that_recur_are_counted(janus: Silent) -> None:
    aligned()
    once = rows("train")
    distinct = [{"de": f"{row['de']} {n}", "en": row["en"]} for n, row in enumerate(once)]
    for name, copies, said in (("once", 1, False), ("twice", 2, True)):
        as_jsonl(Path(f"{name}.jsonl"), [*distinct * copies, *[{"de": "", "en": ""}] * len(once)])
        named = ("--data-dir", "corpus", "--train", f"{name}.jsonl", "--out", name)
        code, err = janus(*named)
        assert (code, f"train: {len(once)} of {2 * len(once)} pairs repeat" in err) == (0, said), err
        assert "pairs repeat" not in janus(*named, "--force", "--set", "data.deduplicate=true")[1]


def test_a_column_may_have_a_comma_in_its_name(janus: Silent) -> None:
    aligned()
    as_jsonl(Path("t.jsonl"), [{"a, b": row["de"], "c": row["en"]} for row in rows("train")])
    columns = ("--set", 'data.columns=["a, b", c]', "--train", "t.jsonl", "--data-dir", "corpus", "--dry-run")
    ends(janus(*columns), 0, "columns 'a, b', 'c'")


@pytest.mark.parametrize("place", [0, 7])
@pytest.mark.parametrize("header", [("de", "en"), ("SRC", "TGT")])
def test_a_header_in_one_text_is_warned_of(janus: Silent, header: tuple[str, str], place: int) -> None:
    """Of two aligned files that were tables, or of tables that were concatenated."""
    aligned()
    named = ("--data-dir", "corpus", "--out", "out", "--force")
    assert "header" not in janus(*named)[1]
    for side, name in zip(("de", "en"), header, strict=True):
        file = Path(f"corpus/train.{side}")
        lines = file.read_text(encoding="utf-8").splitlines()
        write_lines(file, [*lines[:place], name, *lines[place:]])
    ends(janus(*named), 0, f"train: pair {place + 1} looks like a header")


def test_a_test_split_needs_no_target(janus: Silent) -> None:
    aligned()
    as_jsonl(Path("t.jsonl"), [{"de": row["de"]} for row in rows("test")])
    for name, words in (("corpus/test.de", ""), ("t.jsonl", "(JSON lines) has no column 'en'; its columns: 1 'de'")):
        code, said = janus("--data-dir", "corpus", "--test", name, "--out", "out", "--force")
        assert (code, words in said) == (0, True), said
        assert f"test: {COUNTS['test']} sources, no target" in said
        text = read_json("out/manifest.json")["splits"]["test"]["text"]
        assert list(text) == ["source"]
        assert Path("out/test.source.txt").read_bytes() == Path("corpus/test.de").read_bytes()


def test_files_of_set_stay_beside_the_folder(janus: Silent, shell: Janus) -> None:
    aligned()
    as_csv(Path("other.csv"), rows("test")[:2])
    change = "data.files.test=[other.csv]"
    ends(janus("--data-dir", "corpus", "--out", "out", "--set", change), 0, "test: 2 of 2 pairs kept")
    code, _, said = shell("train", *SETTINGS[:6], "--data-dir", "corpus", "--set", "data.files.test=[nowhere]")
    assert (code, "nowhere does not exist" in said) == (3, True), said


def test_a_data_set_of_splits(janus: Silent) -> None:
    aligned()
    assert janus("--data-dir", "corpus", "--out", "plain")[0] == 0
    Path("hf").mkdir()
    for split in COUNTS:
        as_data_set(Path("hf", split.replace("valid", "validation")), rows(split))
    Path("hf/dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    assert janus("--data-dir", "hf", "--out", "one")[0] == 0
    named = [word for split in COUNTS for word in (f"--{split}", "hf")]
    assert janus(*named, "--out", "two")[0] == 0
    assert ids_and_text("one") == ids_and_text("two") == ids_and_text("plain")


def test_a_changed_table_no_longer_fits(janus: Silent, shell: Janus) -> None:
    aligned()
    as_csv(Path("t.csv"), rows("train"))
    assert janus("--data-dir", "corpus", "--train", "t.csv", "--out", "out")[0] == 0
    as_csv(Path("t.csv"), rows("train")[:-1])
    settings = [word for word in SETTINGS if word not in ("--workers", "1")]
    code, _, err = shell("train", "--prepared", "out", "--dry-run", *settings)
    assert (code, err.count("t.csv was changed") >= 1) == (3, True), err


# --- several references ---


def three(split: str) -> Iterator[tuple[str, list[str]]]:
    for n, (source, target) in enumerate(pairs(split)):
        yield source, [target, *(f"another {k}" for k in range(n % 3))]


def kept(folder: str, split: str = "test") -> list[list[str]]:
    text = Path(folder, f"{split}.refs.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


@pytest.mark.parametrize("form", ["columns", "list", "file", "file alone", "named"])
def test_several_references_are_kept_with_the_split(janus: Silent, form: str) -> None:
    folder = aligned()
    refs = Path(folder, "test.refs.tsv")
    refs.write_text("".join("\t".join(targets) + "\n" for _, targets in three("test")), encoding="utf-8")
    more: tuple[str, ...] = ()
    if form == "file alone":
        Path(folder, "test.en").unlink()
    elif form == "named":
        refs = refs.rename("elsewhere.tsv")
        more = ("--test", "corpus/test.de", "elsewhere.tsv")
    elif form == "columns":
        refs.unlink()
        found = [dict(zip(("de", "en", "en2", "en3"), (s, *t, "", ""), strict=False)) for s, t in three("test")]
        as_csv(Path("test.csv"), found)
        more = ("--test", "test.csv", "--set", "data.columns=[de,en,en2,en3]")
    elif form == "list":
        refs.unlink()
        as_jsonl(Path("test.jsonl"), [{"de": source, "en": targets} for source, targets in three("test")])
        more = ("--test", "test.jsonl")
    ends(janus("--data-dir", "corpus", "--out", "out", *more), 0)
    assert kept("out") == [targets for _, targets in three("test")]
    targets = Path("out/test.target.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert targets == [target for _, target in pairs("test")]
    manifest = read_json("out/manifest.json")
    assert "test.refs.jsonl" in manifest["files"]
    assert not Path("out/valid.refs.jsonl").exists()


def test_references_follow_the_pairs_that_are_kept_and_are_cleaned(janus: Silent) -> None:
    folder = aligned()
    Path(folder, "valid.de").write_bytes(b"A\nbad \xff\nC\nD\n")
    Path(folder, "valid.refs.tsv").write_text("The A\tan A\nnothing\nThe C\t \nthe D\tD\n")
    clean = "data.clean=[lowercase,collapse_spaces]"
    ends(janus("--data-dir", "corpus", "--out", "out", "--set", clean, "--bad-utf8", "skip"), 0)
    assert kept("out", "valid") == [["the a", "an a"], ["the c"], ["the d", "d"]]


def test_one_reference_in_every_line_is_the_target(janus: Silent) -> None:
    folder = aligned()
    Path(folder, "test.en").rename(folder / "test.refs.tsv")
    ends(janus("--data-dir", "corpus", "--out", "out"), 0)
    assert not Path("out/test.refs.jsonl").exists()
    assert Path("out/test.target.txt").read_bytes() == Path("corpus/test.refs.tsv").read_bytes()
    Path(folder, "test.refs.tsv").write_text("a\nb\n")
    code, said = janus("--data-dir", "corpus", "--out", "none")
    assert (code, "corpus/test.de has 3 lines, corpus/test.refs.tsv has 2 lines" in said) == (3, True), said


def test_a_list_of_targets_in_training_gives_a_pair_for_each(janus: Silent) -> None:
    folder = aligned()
    texts = [["the first", "", "the second"], ["the third"], [""]]
    as_jsonl(Path("t.jsonl"), [{"de": f"quelle {n}", "en": targets} for n, targets in enumerate(texts)])
    code, said = janus("--data-dir", "corpus", "--train", "t.jsonl", "--out", "out")
    assert (code, "t.jsonl: 1 empty text in lists with others: not used" in said) == (0, True), said
    Path(folder, "train.de").write_text("quelle 0\nquelle 0\nquelle 1\nquelle 2\n")
    Path(folder, "train.en").write_text("the first\nthe second\nthe third\n\n")
    assert janus("--data-dir", "corpus", "--out", "plain")[0] == 0
    assert ids_and_text("out") == ids_and_text("plain")


def test_training_takes_the_first_target_that_is_there(janus: Silent) -> None:
    aligned()
    assert janus("--data-dir", "corpus", "--out", "plain")[0] == 0
    moved = [
        {**row, "en": row["en"] if n % 2 else "", "en2": "never read" if n % 2 else row["en"]}
        for n, row in enumerate(rows("train"))
    ]
    as_csv(Path("t.csv"), moved)
    for split in ("valid", "test"):
        as_csv(Path(f"{split}.csv"), [{**row, "en2": ""} for row in rows(split)])
    named = ("--train", "t.csv", "--valid", "valid.csv", "--test", "test.csv")
    code, said = janus(*named, "--out", "out", "--set", "data.columns=[de,en,en2]")
    assert (code, "the targets to train on are those of column en" in said) == (0, True), said
    assert ids_and_text("out") == ids_and_text("plain")


def test_numbered_columns_beside_the_target_are_not_passed_over(janus: Silent) -> None:
    folder = aligned()
    as_csv(Path("t.csv"), [{**row, "en2": "a", "en_3": "b", "env": "c"} for row in rows("test")])
    words = ("--data-dir", str(folder), "--test", "t.csv", "--dry-run")
    code, said = janus(*words)
    hint = "rename en to en1, or, if every table has them, --set data.columns=[de,en,en2,en_3]"
    assert (code, f"t.csv: not read: en2, en_3; to score against them, too, {hint}" in said) == (0, True), said
    assert "not read:" not in ends(janus(*words, "--set", "data.columns=[de,en,en2,en_3]"), 0)
    Path("t.csv").write_text(Path("t.csv").read_text(encoding="utf-8").replace(",en,", ",en1,", 1), encoding="utf-8")
    ends(janus(*words), 0, "columns de, en1, en2, en_3")


def test_targets_that_are_numbered_in_one_split_are_its_references(janus: Silent) -> None:
    """As in DialogSum: `summary` in training, `summary1` to `summary3` in the test set."""
    for split in COUNTS:
        found = [{"dialogue": source, "summary": target, "topic1": "x"} for source, target in pairs(split)]
        as_jsonl(Path(f"{split}.jsonl"), found)
    several = [{"dialogue": s, **{f"summary{n}": text for n, text in enumerate(texts, 1)}, "summary9": ""}
               for s, texts in three("test")]  # fmt: skip
    as_jsonl(Path("test.jsonl"), [{**dict.fromkeys(("summary1", "summary2", "summary3")), **row} for row in several])
    named = [word for split in COUNTS for word in (f"--{split}", f"{split}.jsonl")]
    code, said = janus(*named, "--out", "out", "--set", "data.columns=[dialogue,summary]")
    assert (code, "columns dialogue, summary1, summary2, summary3, summary9" in said) == (0, True), said
    assert kept("out") == [targets for _, targets in three("test")]


def test_a_run_is_validated_and_scored_with_all_references(tiny_recipe: Path, shell: Janus) -> None:
    """Decoding the test split leaves the references where `janus score` finds them."""
    folder = aligned()
    for split in ("valid", "test"):
        lines = ["\t".join([f"first {n}", f"second {n}"]) for n in range(COUNTS[split])]
        write_lines(Path(folder, f"{split}.refs.tsv"), lines)
        Path(folder, f"{split}.en").unlink()
    text = tiny_recipe.read_text().replace("synthetic: {train: 64, valid: 8, test: 8}", "source: de, target: en")
    tiny_recipe.write_text(text.replace("vocabulary: 120", "kind: words, vocabulary: 120"))
    ends(shell("train", "--recipe", "tiny.yaml", "--data-dir", "corpus", "--set", "training.updates=4"), 0)
    assert shell("decode", "--mode", "nar", "--iters", "1", "--length-beam", "1")[0] == 0
    (data,) = Path("data").iterdir()
    assert "references: 6 references, 2 a line" in shell("inspect", str(data))[1]
    assert shell("report", "tiny-janus", "--out", "page.html")[0] == 0
    assert "6 references, 2 a line" in Path("page.html").read_text()
    decoded = Path("runs/tiny-janus/decode")
    assert (decoded / "test.refs.jsonl").is_file()
    (summary,) = decoded.glob("*.json")
    assert read_json(summary)["references"] == ["test.refs.jsonl"]
    code, out, err = shell("score", "--json", "--metrics", "exact")
    assert (code, json.loads(out)["scores"][0]["signature"].startswith("nrefs:2|")) == (0, True), err
    (decoded / "h.txt").write_text("first 0\nsecond 1\nthird 2\n")
    code, out, _ = shell("score", str(decoded / "h.txt"), "--reference", str(decoded / "test.refs.jsonl"), "--json",
                         "--metrics", "exact")  # fmt: skip
    assert json.loads(out)["scores"][0]["value"] == pytest.approx(200 / 3)
