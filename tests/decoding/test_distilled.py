"""A teacher's ids as training targets: what is let in, what is counted, and what is no such file."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_cli import recipe_load
from janus_cli.data.prepare import prepare
from janus_cli.data.prepared import Prepared, open_prepared
from janus_cli.data.store import Store
from janus_cli.decoding import distilled
from janus_cli.decoding.distilled import IdLines
from janus_cli.decoding.plan import choose
from janus_cli.decoding.sources import Sources
from janus_cli.errors import DataError
from janus_cli.recipe import Recipe

CHANGES = [
    "data.synthetic.train=60", "data.synthetic.valid=2", "data.synthetic.test=2", "tokenizer.vocabulary=250",
    "data.min_tokens=2", "data.max_tokens=40", "data.max_ratio=4", "decoding.max_ratio=3",
]  # fmt: skip


@pytest.fixture
def data(empty_folder: Path) -> tuple[Prepared, Recipe]:
    recipe = recipe_load.load("demo", CHANGES)
    prepare(recipe, empty_folder / "raw", workers=1, force=False)
    return open_prepared(recipe, empty_folder / "raw"), recipe


def targets(prepared: Prepared) -> list[list[int]]:
    """As good as those of the text: they are its sources, some of them."""
    return [prepared.train.pair(index)[0].tolist() for index in range(len(prepared.train))]


def write_scored(lines: Sequence[str], scores: Sequence[float] | None = None) -> None:
    pairs = zip(scores or [-0.5] * len(lines), lines, strict=True)
    Path("hypotheses").write_text("".join(f"{score:.6f}\t{line}\n" for score, line in pairs), encoding="utf-8")


def write(prepared: Prepared, recipe: Recipe, lines: Sequence[str], surest: float = 1.0) -> dict[str, Any]:
    write_scored(lines)
    options = choose(recipe, {"mode": "ar"}).used
    about = {"sha256": "0" * 64, "options": options, "run": "runs/x", "checkpoint": "last", "command": "janus distill"}
    return distilled.write(
        Sources(prepared, recipe), Path("hypotheses"), Path("made"), about, surest=surest, force=False
    )


def as_lines(rows: Sequence[Sequence[int]]) -> list[str]:
    return [" ".join(map(str, row)) for row in rows]


def test_ids_are_text_and_back(data: tuple[Prepared, Recipe]) -> None:
    prepared, recipe = data
    ids = IdLines(prepared.tokenizers.target)
    rows = [[5, 1, 249], [], [7]]
    assert ids.decode(rows) == ["5 1 249", "", "7"]
    assert ids.encode(ids.decode(rows)) == rows
    assert (ids.size, ids.pieces([1])) == (250, ["<unk>"])
    assert list(Sources(prepared, recipe)) == targets(prepared)


@pytest.mark.parametrize("chunk", [7, 4000])
def test_the_rules_of_preprocessing_hold_and_what_they_drop_is_counted(
    data: tuple[Prepared, Recipe], monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(distilled, "CHUNK_LINES", chunk)
    prepared, recipe = data
    rows = targets(prepared)
    lengths = np.array([len(row) for row in rows])
    longest = int(lengths.argmax())
    assert lengths[longest] > 8
    assert lengths.min() > 1
    rows[longest], others = [9, 9], [index for index in range(4, 60, 7) if index != longest][:4]
    for index, row in zip(others, ([], [], [9], [9] * 41), strict=True):
        rows[index] = row
    made = write(prepared, recipe, as_lines(rows))
    entry = made["splits"]["train"]
    assert (entry["in"], entry["kept"]) == (60, 55)
    assert entry["dropped"] == {"empty": 2, "too_short": 1, "too_long": 1, "ratio": 1}
    assert entry["text"]["source"] == prepared.manifest["splits"]["train"]["text"]["source"]
    assert entry["text"]["target"]["lines"] == 60
    assert made["distilled"]["at_limit"] == sum(
        len(row) >= min(3 * length + 10, recipe.model.max_length - 2)
        for index, (row, length) in enumerate(zip(rows, lengths.tolist(), strict=True))
        if index not in (longest, *others)
    )
    store = Store.open(Path("made/train.arrow"), "train")
    kept = [index for index in range(60) if index not in (longest, *others)]
    for row, index in enumerate(kept):
        source, target = store.pair(row)
        assert source.tolist() == prepared.train.pair(index)[0].tolist()
        assert target.tolist() == rows[index]
    assert store.origin["teacher"] == "0" * 64
    assert len(open_prepared(recipe, Path("made")).train) == 55


def test_outputs_that_have_all_tokens_allowed_are_kept_and_counted(data: tuple[Prepared, Recipe]) -> None:
    prepared, recipe = data
    tight = replace(recipe, decoding=replace(recipe.decoding, max_ratio=1.0, max_extra=2))
    rows = targets(prepared)
    rows[0], rows[1] = [*rows[0], 9, 9], [*rows[1], 9]
    made = write(prepared, tight, as_lines(rows))
    assert (made["distilled"]["at_limit"], made["splits"]["train"]["kept"]) == (1, 60)


def test_a_teacher_that_predicts_lengths_has_no_limit_but_the_longest(data: tuple[Prepared, Recipe]) -> None:
    prepared, _ = data
    recipe = recipe_load.load("demo", [*CHANGES, "decoding.max_ratio=1", "decoding.max_extra=0"], "mpnet")
    assert not {"max_ratio", "max_extra"} & choose(recipe, {"mode": "ar"}).used.keys()
    made = write(prepared, recipe, as_lines(targets(prepared)))
    assert made["distilled"]["at_limit"] == 0


@pytest.mark.parametrize("deduplicate", [False, True])
def test_pairs_that_became_equal_go_where_the_recipe_wants_no_duplicates(empty_folder: Path, deduplicate: bool) -> None:
    text = empty_folder / "text"
    text.mkdir()
    for split in ("train", "valid"):
        (text / f"{split}.src").write_text("a b c\n" * 3 + "d e f\n")
        (text / f"{split}.tgt").write_text("x y\nx z\nz y\nx y z\n")
    recipe = recipe_load.load(
        "demo",
        [
            f"data.deduplicate={str(deduplicate).lower()}", f"data.dir={json.dumps(str(text))}", "data.synthetic=null",
            "tokenizer.kind=words", "tokenizer.joint=false", "model.tie=none",
        ],
    )  # fmt: skip
    prepare(recipe, Path("raw"), workers=1, force=False)
    made = write(open_prepared(recipe, Path("raw")), recipe, ["5 6", "5 6", "5 7", "5 6"])
    assert made["splits"]["train"]["kept"] == 4 - deduplicate
    assert made["splits"]["train"]["dropped"] == ({"duplicate": 1} if deduplicate else {})


@pytest.mark.parametrize("surest", [1.0, 0.5])
@pytest.mark.parametrize("spoil", ["more", "fewer", "word", "unknown", "negative"])
def test_damaged_hypotheses_make_no_folder(data: tuple[Prepared, Recipe], spoil: str, surest: float) -> None:
    prepared, recipe = data
    lines = as_lines(targets(prepared))
    lines = {
        "more": [*lines, "5 6"], "fewer": lines[:-1], "word": [*lines[:-1], "5 x"],
        "unknown": [*lines[:-1], "5 250"], "negative": [*lines[:-1], "5 -1"],
    }[spoil]  # fmt: skip
    with pytest.raises(DataError, match="hypotheses is damaged"):
        write(prepared, recipe, lines, surest=surest)
    assert not Path("made").exists()


@pytest.mark.parametrize("line", ["5 6", "x\t5 6", "\t5 6", "nan\t5 6"])
def test_lines_without_a_score_are_damaged(data: tuple[Prepared, Recipe], line: str) -> None:
    prepared, recipe = data
    Path("hypotheses").write_text(f"{line}\n" * 60, encoding="utf-8")
    about = {"sha256": "0" * 64, "options": choose(recipe, {"mode": "ar"}).used}
    with pytest.raises(DataError, match="hypotheses is damaged"):
        distilled.write(Sources(prepared, recipe), Path("hypotheses"), Path("made"), about, force=False)
    assert not Path("made").exists()


def test_a_teacher_that_says_nothing(data: tuple[Prepared, Recipe]) -> None:
    prepared, recipe = data
    with pytest.raises(DataError, match="none of the teacher's outputs makes a training pair: empty 60"):
        write(prepared, recipe, [""] * 60)
    assert not Path("made").exists()


def test_more_sources_are_lines_of_files(data: tuple[Prepared, Recipe]) -> None:
    prepared, recipe = data
    Path("more.src").write_bytes(b"\xef\xbb\xbfab cd\r\n\nab\n")
    with gzip.open("more.src.gz", "wt") as file:
        file.write("cd ab")
    plain = Sources(prepared, recipe)
    assert (list(plain), len(plain), plain.about()) == (targets(prepared), 60, {})
    sources = Sources(prepared, recipe, [Path("more.src"), Path("more.src.gz")])
    assert len(sources) == 64
    assert list(sources) == [*targets(prepared), *prepared.tokenizers.source.encode(["ab cd", "", "ab", "cd ab"])]
    about = [(Path(file["path"]).name, file["lines"]) for file in sources.about()["sources"]]
    assert about == [("more.src", 3), ("more.src.gz", 1)]


def test_pairs_of_more_sources_stand_behind_those_of_training(data: tuple[Prepared, Recipe]) -> None:
    prepared, recipe = data
    Path("more.src").write_text("\n" + "ab " * 60 + "\nab cd\n", encoding="utf-8")
    sources = Sources(prepared, recipe, [Path("more.src")])
    rows = list(sources)
    about = {"sha256": "0" * 64, "options": choose(recipe, {"mode": "ar"}).used, **sources.about()}
    write_scored(as_lines(rows))
    made = distilled.write(sources, Path("hypotheses"), Path("made"), about, force=False)
    entry = made["splits"]["train"]
    assert (entry["in"], entry["kept"], entry["dropped"]) == (63, 61, {"empty": 1, "too_long": 1})
    store = Store.open(Path("made/train.arrow"), "train")
    assert [store.pair(row)[0].tolist() for row in range(61)] == [row for row in rows if 0 < len(row) <= 40]


@pytest.mark.parametrize("chunk", [1, 7, 4000])
@pytest.mark.parametrize(
    ("surest", "kept", "least"),
    [
        (0.01, [1], -0.25),
        (0.2, [1], -0.25),
        (0.4, [1, 4], -0.5),
        (0.6, [0, 1, 3, 4], -1.0),
        (0.99, [0, 1, 2, 3, 4], -3.0),
    ],
)
def test_of_more_sources_the_surest_stay(
    data: tuple[Prepared, Recipe],
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    surest: float,
    kept: list[int],
    least: float,
) -> None:
    """Ties stay; a training pair stays whatever its score; a blank line takes nobody's place."""
    monkeypatch.setattr(distilled, "CHUNK_LINES", chunk)
    prepared, recipe = data
    more = ["ab cd", "cd ab", "ab ab", "cd cd", "ab cd ab", ""]
    Path("more.src").write_text("".join(f"{line}\n" for line in more), encoding="utf-8")
    sources = Sources(prepared, recipe, [Path("more.src")])
    rows = list(sources)
    write_scored(as_lines(rows), [-9.0] * 60 + [-1.0, -0.25, -3.0, -1.0, -0.5, 0.0])
    about = {"sha256": "0" * 64, "options": choose(recipe, {"mode": "ar"}).used, **sources.about()}
    made = distilled.write(sources, Path("hypotheses"), Path("made"), about, surest=surest, force=False)
    unsure = 5 - len(kept)
    assert made["splits"]["train"]["dropped"] == {"empty": 1} | ({"unsure": unsure} if unsure else {})
    assert (made["distilled"]["surest"], made["distilled"]["least_score"]) == (surest, least)
    store = Store.open(Path("made/train.arrow"), "train")
    found = [store.pair(row)[0].tolist() for row in range(len(store))]
    assert found == [*targets(prepared), *(rows[60 + index] for index in kept)]


def test_without_a_share_every_source_stays(data: tuple[Prepared, Recipe]) -> None:
    made = write(*data, as_lines(targets(data[0])))
    assert made["splits"]["train"]["kept"] == 60
    assert "surest" not in made["distilled"]


def test_source_text_that_cannot_be_used(data: tuple[Prepared, Recipe]) -> None:
    Path("latin.src").write_bytes("süß\n".encode("latin-1"))
    for name, message in (("nowhere", "cannot be read"), ("-", "cannot be read"), ("latin.src", "is not UTF-8")):
        with pytest.raises(DataError, match=message):
            Sources(*data, [Path(name)])


def test_source_text_that_changes_while_it_is_decoded(data: tuple[Prepared, Recipe]) -> None:
    prepared, recipe = data
    Path("more.src").write_text("ab\n", encoding="utf-8")
    sources = Sources(prepared, recipe, [Path("more.src")])
    about = {"sha256": "0" * 64, "options": choose(recipe, {"mode": "ar"}).used, **sources.about()}
    write_scored(as_lines(list(sources)))
    Path("more.src").write_text("cd\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"more\.src was changed meanwhile"):
        distilled.write(sources, Path("hypotheses"), Path("made"), about, force=False)
    assert not Path("made").exists()
