"""Which tokens translate which: by IBM model 1 against a plain version, from a file, kept with a run."""

from __future__ import annotations

import itertools
import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from janus_cli import recipe_load
from janus_cli.core.batch import PAD
from janus_cli.core.knobs import CematObjective
from janus_cli.data import lexicon
from janus_cli.data.batching import load_batch
from janus_cli.data.prepare import prepare
from janus_cli.data.prepared import Prepared, open_prepared
from janus_cli.data.store import Store, StoreWriter
from janus_cli.errors import CheckpointError, DataError
from janus_cli.files import MANIFEST, write_json
from janus_cli.runs import prepared_dir

Pairs = list[tuple[list[int], list[int]]]
ALL = CematObjective(translation_least=0.0)


def made_up(count: int = 300) -> Pairs:
    """Word x becomes x + 20, every third time x + 40, in any order; 9 translates nothing and nothing makes 70."""
    draw = random.Random(1)
    pairs = []
    for _ in range(count):
        source = draw.sample(range(10, 30), draw.randint(1, 5))
        target = [x + draw.choice([20, 20, 40]) for x in source]
        draw.shuffle(target)
        pairs.append(([*source, 9], [*target, 70]))
    return pairs


def store(folder: Path, pairs: Pairs) -> Store:
    with StoreWriter(folder, "train", source_vocabulary=80, target_vocabulary=90, origin={}) as writer:
        writer.add([source for source, _ in pairs], [target for _, target in pairs])
    about = {"kept": len(pairs), "fingerprint": writer.fingerprint}
    write_json(folder / MANIFEST, {"vocabulary": {"source": 80, "target": 90}, "splits": {"train": about}})
    return Store.open(folder, "train")


def slow(pairs: Pairs, rounds: int) -> dict[int, dict[int, float]]:
    """IBM model 1 in plain Python; None stands for nothing."""
    t: dict[object, dict[int, float]] = defaultdict(lambda: defaultdict(lambda: 1.0))
    for _ in range(rounds):
        counts: dict[object, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for source, target in pairs:
            sources = [*source, None]
            for y in target:
                whole = sum(t[x][y] for x in sources)
                for x in sources:
                    counts[x][y] += t[x][y] / whole
        t = defaultdict(dict)
        for x, ys in counts.items():
            t[x] = {y: c / sum(ys.values()) for y, c in ys.items()}
    return {x: ys for x, ys in t.items() if isinstance(x, int)}


@pytest.mark.parametrize("cells", [1, 50, 2_000_000])
def test_the_order_of_translations_is_that_of_the_plain_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: int
) -> None:
    monkeypatch.setattr(lexicon, "CELLS", cells)
    likeliest = lexicon.induce(store(tmp_path, made_up()), CematObjective())
    assert all(likeliest[x][:2] == [x + 20, x + 40] for x in range(10, 30))
    pairs = made_up(60)
    found, expected = lexicon.induce(store(tmp_path, pairs), ALL), slow(pairs, ALL.dictionary_rounds)
    assert {x: sorted(ys) for x, ys in found.items()} == {x: sorted(ys) for x, ys in expected.items()}
    for x, ys in found.items():
        assert all(expected[x][a] >= expected[x][b] - 1e-12 for a, b in itertools.pairwise(ys))
    least = lexicon.induce(store(tmp_path, pairs), CematObjective(translation_least=0.3))
    assert least == {x: kept for x, ys in found.items() if (kept := [y for y in ys if expected[x][y] >= 0.3])}


def test_pairs_are_taken_evenly_and_special_ids_are_no_words(tmp_path: Path) -> None:
    pairs: Pairs = [([10, 1], [30, 1]), ([11], [31]), ([12], []), ([13], [33]), ([14], [34])]
    found = lexicon.induce(store(tmp_path, pairs), CematObjective(dictionary_pairs=3))
    assert found == {10: [30], 14: [34]}
    assert lexicon.induce(store(tmp_path, []), ALL) == {}
    table = lexicon.table({6: [8, 9], 7: [5]}, 9)
    assert table.tolist() == [[PAD, PAD]] * 6 + [[8, 9], [5, PAD], [PAD, PAD]]


@pytest.fixture
def prepared(tiny_recipe: Path) -> Prepared:
    recipe = recipe_load.load(str(tiny_recipe), objective="cemat")
    prepare(recipe, prepared_dir(recipe), workers=None, force=False)
    return open_prepared(recipe, prepared_dir(recipe))


def load(*changes: str) -> lexicon.Recipe:
    return recipe_load.load("tiny.yaml", changes, "cemat")


def test_a_run_keeps_its_lexicon_and_batches_carry_it(prepared: Prepared) -> None:
    file = Path("lexicon.json")
    random = torch.get_rng_state()
    file.write_bytes(lexicon.make(load(), prepared))
    first = file.read_bytes()
    lexicon.attach(load(), prepared, file)
    assert torch.equal(random, torch.get_rng_state())
    table = prepared.train.lexicon
    assert table is not None
    assert table.shape == (prepared.train.source_vocabulary, 4)
    for part in (prepared.train, prepared.valid):
        batch = load_batch(part, np.arange(2))
        assert batch.lexicon is batch.select(slice(0, 1)).lexicon is batch.to("cpu").lexicon is table
    file.write_bytes(lexicon.make(load(), prepared))
    assert file.read_bytes() == first
    assert {int(x) for x in json.loads(first)["translations"]} == {int(x) for x in table[:, 0].nonzero()[:, 0]}


@pytest.mark.parametrize(
    ("objective", "changes"), [("cmlm", ()), ("janus", ()), ("cemat", ("objective.switched=0.0",))]
)
def test_who_switches_nothing_needs_no_lexicon(prepared: Prepared, objective: str, changes: tuple[str, ...]) -> None:
    recipe = recipe_load.load("tiny.yaml", changes, objective)
    assert lexicon.make(recipe, prepared) == b""
    lexicon.attach(recipe, prepared, Path("none"))
    assert prepared.train.lexicon is None


def test_a_dictionary_file(prepared: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    """Words of one token each count; the order of the file is kept, and doubles are one."""
    tokenizer = prepared.tokenizers.source
    assert tokenizer is prepared.tokenizers.target
    pieces = tokenizer.decode([[x] for x in range(5, tokenizer.size)])
    whole = {
        word: row[0]
        for word, row in zip(pieces, tokenizer.encode(pieces), strict=True)
        if word.strip() and len(row) == 1
    }
    first, second, one, *_ = whole
    long = "no such word here"
    Path("d.tsv").write_bytes(f"{one}\t{second}\n{one}\t{first}\r\n{long}\t{first}\n{one}\t{second}\n".encode())
    recipe = load("objective.dictionary=d.tsv")
    Path("l.json").write_bytes(lexicon.make(recipe, prepared))
    lexicon.attach(recipe, prepared, Path("l.json"))
    assert prepared.train.lexicon is not None
    assert prepared.train.lexicon[whole[one]].tolist() == [whole[second], whole[first]]
    assert "d.tsv: 3 of 4 pairs are of one known token each" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "objective.dictionary: d.tsv does not exist"),
        (b"a\tb\n\xff\tc\n", "objective.dictionary: d.tsv:2:1: byte 0xff is not UTF-8"),
        (b"a\tb\nc d\n", "d.tsv:2: not a pair of words"),
        (b"a\tb\tc\n", "d.tsv:1: not a pair of words"),
        (b"a\t \n", "d.tsv:1: not a pair of words"),
        (b"no such word\tnone\n", "no token has two translations"),
    ],
)
def test_a_dictionary_that_is_none(prepared: Prepared, data: bytes | None, words: str) -> None:
    if data is not None:
        Path("d.tsv").write_bytes(data)
    with pytest.raises(DataError, match=words):
        lexicon.make(load("objective.dictionary=d.tsv"), prepared)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, "does not exist"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ({"format": 2}, "damaged"),
        ({"translations": {"9": [10, 11]}}, "damaged"),
        ({"translations": 3}, "damaged"),
        ({"fingerprint": "0"}, "belongs to other data"),
    ],
)
def test_a_run_does_not_go_on_with_another_lexicon(prepared: Prepared, change: object, words: str) -> None:
    file = Path("l.json")
    file.write_bytes(lexicon.make(load(), prepared))
    if isinstance(change, dict):
        change = json.dumps({**json.loads(file.read_bytes()), **change})
    file.unlink()
    if change is not None:
        file.write_text(str(change), encoding="utf-8")
    with pytest.raises(CheckpointError, match=words) as problem:
        lexicon.attach(load(), prepared, file)
    assert "--force" in str(problem.value.hint)
    assert prepared.train.lexicon is None


@pytest.mark.parametrize("translations", [{10**9: [5, 6]}, {-1: [5, 6]}, {5: [10**9]}, {5: [6] * 1001}])
def test_a_lexicon_under_a_right_hash_takes_no_more_memory(
    prepared: Prepared, translations: dict[int, list[int]]
) -> None:
    """Ids that nobody has, and more translations than any token: their table would be huge."""
    file = Path("l.json")
    file.write_bytes(lexicon.make(load(), prepared))
    about = json.loads(file.read_bytes())
    file.write_text(json.dumps({**about, "sha256": lexicon._digest(translations), "translations": translations}))
    with pytest.raises(CheckpointError, match=r"l\.json is damaged"):
        lexicon.attach(load(), prepared, file)
