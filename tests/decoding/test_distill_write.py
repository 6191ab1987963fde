"""A teacher's ids as training targets: what is let in, what is counted, and what is damaged."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_cli import recipe_load
from janus_cli.data.prepare import prepare
from janus_cli.data.prepared import open_prepared
from janus_cli.data.store import Store
from janus_cli.decoding import distill
from janus_cli.decoding.distill import Sources
from janus_cli.decoding.modes import choose
from janus_cli.errors import DataError

CHANGES = [
    "data.synthetic.train=60", "data.synthetic.valid=2", "data.synthetic.test=2", "tokenizer.vocabulary=250",
    "data.min_tokens=2", "data.max_tokens=40", "data.max_ratio=4", "decoding.max_ratio=3",
]  # fmt: skip
MADE = Path("made")


@pytest.fixture
def sources(empty_folder: Path) -> Sources:
    return prepared_sources(CHANGES)


def prepared_sources(changes: Sequence[str], objective: str | None = None) -> Sources:
    recipe = recipe_load.load("demo", changes, objective)
    if not Path("raw").exists():
        prepare(recipe, Path("raw"), workers=1, force=False)
    return Sources(open_prepared(recipe, Path("raw")), recipe)


def with_file(sources: Sources, text: str) -> Sources:
    Path("more.src").write_text(text, encoding="utf-8")
    return Sources(sources.prepared, sources.recipe, [Path("more.src")])


def write(
    sources: Sources, rows: Sequence[Sequence[object]], scores: Sequence[object] | None = None, surest: float = 1.0
) -> dict[str, Any]:
    """The manifest of the folder `made`, from the teacher's ids."""
    pairs = zip(scores or [-0.5] * len(rows), rows, strict=True)
    records = [{"source": "", "score": score, "hypothesis": " ".join(map(str, row))} for score, row in pairs]
    options = choose(sources.recipe, {"mode": "ar"}).used
    about = {"sha256": "0" * 64, "options": options, "run": "runs/x", "checkpoint": "last", "command": "janus distill"}
    return distill.write(sources, records, MADE, about | sources.described(), surest=surest, force=False)


def pairs() -> list[tuple[list[int], list[int]]]:
    store = Store.open(MADE, "train")
    found = [store.pair(row) for row in range(len(store))]
    return [(source.tolist(), target.tolist()) for source, target in found]


@pytest.mark.parametrize("chunk", [7, 4000])
def test_the_rules_of_preprocessing_hold_and_what_they_drop_is_counted(
    sources: Sources, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(distill, "CHUNK_LINES", chunk)
    rows = list(sources)
    lengths = [len(row) for row in rows]
    longest = int(np.argmax(lengths))
    assert max(lengths) > 8
    assert min(lengths) > 1
    rows[longest], others = [9, 9], [index for index in range(4, 60, 7) if index != longest][:4]
    for index, row in zip(others, ([], [], [9], [9] * 41), strict=True):
        rows[index] = row
    kept = [index for index in range(60) if index not in (longest, *others)]
    made = write(sources, rows)
    entry = made["splits"]["train"]
    assert (entry["in"], entry["kept"]) == (60, 55)
    assert entry["dropped"] == {"empty": 2, "too_short": 1, "too_long": 1, "ratio": 1}
    assert entry["text"]["source"] == sources.prepared.manifest["splits"]["train"]["text"]["source"]
    assert entry["text"]["target"]["lines"] == 60
    most = sources.recipe.model.max_length - 2
    at_limit = sum(len(rows[index]) >= min(3 * lengths[index] + 10, most) for index in kept)
    assert made["distilled"]["at_limit"] == at_limit
    assert pairs() == [(source, rows[index]) for index, source in enumerate(sources) if index in kept]
    assert len(open_prepared(sources.recipe, MADE).train) == 55


def test_outputs_that_have_all_tokens_allowed_are_kept_and_counted(sources: Sources) -> None:
    tight = prepared_sources([*CHANGES, "decoding.max_ratio=1", "decoding.max_extra=2"])
    first, second, *rest = sources
    made = write(tight, [[*first, 9, 9], [*second, 9], *rest])
    assert (made["distilled"]["at_limit"], made["splits"]["train"]["kept"]) == (1, 60)


def test_a_teacher_that_predicts_lengths_has_no_limit_but_the_longest(sources: Sources) -> None:
    changes = [*CHANGES, "decoding.max_ratio=1", "decoding.max_extra=0"]
    made = write(prepared_sources(changes, "mpnet"), list(sources))
    assert (made["distilled"]["at_limit"], made["splits"]["train"]["kept"]) == (0, 60)
    assert "surest" not in made["distilled"]


@pytest.mark.parametrize("deduplicate", [False, True])
def test_pairs_that_became_equal_go_where_the_recipe_wants_no_duplicates(empty_folder: Path, deduplicate: bool) -> None:
    for split in ("train", "valid"):
        Path(f"{split}.src").write_text("a b c\n" * 3 + "d e f\n")
        Path(f"{split}.tgt").write_text("x y\nx z\nz y\nx y z\n")
    here = json.dumps(str(empty_folder))
    changes = [f"data.deduplicate={str(deduplicate).lower()}", f"data.dir={here}", "data.synthetic=null"]
    words = ["tokenizer.kind=words", "tokenizer.joint=false", "model.tie=none"]
    made = write(prepared_sources([*changes, *words]), [[5, 6], [5, 6], [5, 7], [5, 6]])
    assert made["splits"]["train"]["kept"] == 4 - deduplicate
    assert made["splits"]["train"]["dropped"] == ({"duplicate": 1} if deduplicate else {})


@pytest.mark.parametrize("surest", [1.0, 0.5])
@pytest.mark.parametrize(
    ("last", "score"),
    [
        ([[5, 6], [5, 6]], -0.5),  # one too many
        ([], -0.5),
        ([[5, "x"]], -0.5),
        ([[5, 250]], -0.5),
        ([[5, -1]], -0.5),
        ([[5, 6]], "x"),
        ([[5, 6]], None),
        ([[5, 6]], float("nan")),
    ],
)
def test_damaged_outputs_make_no_folder(
    sources: Sources, last: list[list[object]], score: object, surest: float
) -> None:
    rows = [*list(sources)[:-1], *last]
    with pytest.raises(DataError, match="is damaged"):
        write(sources, rows, [*[-0.5] * (len(rows) - 1), score], surest)
    assert not MADE.exists()


def test_a_teacher_that_says_nothing(sources: Sources) -> None:
    with pytest.raises(DataError, match="none of the teacher's outputs makes a training pair: empty 60"):
        write(sources, [[]] * 60)
    with pytest.raises(DataError, match="training pair: too_long 60") as caught:
        write(sources, [[9] * 99] * 60)
    assert "prepare with a looser data.max_tokens 40 (raise it" in caught.value.hint
    assert not MADE.exists()


def test_more_sources_are_lines_of_files(sources: Sources) -> None:
    assert (len(sources), sources.described()) == (60, {})
    Path("more.src").write_bytes(b"\xef\xbb\xbfab cd\r\n\nab\n")
    Path("more.src.gz").write_bytes(gzip.compress(b"cd ab"))
    more = Sources(sources.prepared, sources.recipe, [Path("more.src"), Path("more.src.gz")])
    lines = sources.prepared.tokenizers.source.encode(["ab cd", "", "ab", "cd ab"])
    assert list(more) == [*sources, *lines]
    assert len(more) == 64
    about = [(Path(file["path"]).name, file["lines"]) for file in more.described()["sources"]]
    assert about == [("more.src", 3), ("more.src.gz", 1)]


def test_pairs_of_more_sources_stand_behind_those_of_training(sources: Sources) -> None:
    more = with_file(sources, "\n" + "ab " * 60 + "\nab cd\n")
    entry = write(more, list(more))["splits"]["train"]
    assert (entry["in"], entry["kept"], entry["dropped"]) == (63, 61, {"empty": 1, "too_long": 1})
    assert [source for source, _ in pairs()] == [row for row in more if 0 < len(row) <= 40]


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
    sources: Sources, monkeypatch: pytest.MonkeyPatch, chunk: int, surest: float, kept: list[int], least: float
) -> None:
    """Ties stay; a training pair stays whatever its score; a blank line takes nobody's place."""
    monkeypatch.setattr(distill, "CHUNK_LINES", chunk)
    more = with_file(sources, "ab cd\ncd ab\nab ab\ncd cd\nab cd ab\n\n")
    rows = list(more)
    made = write(more, rows, [-9.0] * 60 + [-1.0, -0.25, -3.0, -1.0, -0.5, 0.0], surest)
    unsure = 5 - len(kept)
    assert made["splits"]["train"]["dropped"] == {"empty": 1} | ({"unsure": unsure} if unsure else {})
    assert (made["distilled"]["surest"], made["distilled"]["least_score"]) == (surest, least)
    assert [source for source, _ in pairs()] == [*rows[:60], *(rows[60 + index] for index in kept)]


def test_source_text_that_cannot_be_used_or_changes_meanwhile(sources: Sources) -> None:
    Path("latin.src").write_bytes("süß\n".encode("latin-1"))
    for name, message in (("nowhere", "does not exist"), ("-", "stdin is a pipe"), ("latin.src", "is not UTF-8")):
        with pytest.raises(DataError, match=message):
            Sources(sources.prepared, sources.recipe, [Path(name)])
    more = with_file(sources, "ab\n")
    rows = list(more)
    Path("more.src").write_text("cd\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"more\.src was changed meanwhile"):
        write(more, rows)
    assert not MADE.exists()
