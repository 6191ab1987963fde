"""Plain text: lines become examples, any number of files are one text; trained with noise, resumed to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from janus_cli.core.batch import EOS, MASK, PAD
from janus_cli.core.denoise import denoised
from janus_cli.core.noise import Draws
from janus_cli.data import batching
from janus_cli.data.batching import NUMBERS, epoch_batches, load_batch, noised
from janus_cli.data.plain import examples, sentence_ends
from janus_cli.data.prepared import Prepared, open_prepared
from janus_cli.data.store import Ragged, Store
from janus_cli.errors import DataError
from janus_cli.recipe import Data, Files, Recipe
from tests.data.small_corpus import OUT, made, put_file, recipe_for
from tests.faults.processes import digest, entries, go, make_trainer
from tests.helpers import Capture, Janus, Patch, ends, read_json, sets

PLAIN = ("data.task=denoising", "data.max_tokens=20")
A, B, VALID = Path("a.txt"), Path("b.txt.gz"), Path("valid.txt")


def recipe_of(**data: Any) -> Recipe:
    files = Files(train=(str(A), str(B)), valid=(str(VALID),))
    return recipe_for(None, data={"task": "denoising", "files": files, "max_tokens": 6, **data})


@pytest.fixture
def text(empty_folder: Path) -> None:
    put_file(A, "a b c\nd e\n\nf g h\n")
    put_file(B, "i j\nk\n" + "l " * 8)
    put_file(VALID, "a b\nc d e f\ng\n")


def targets(prepared: Prepared, store: Store) -> list[str]:
    assert not store.lengths()[0].any()  # an example is kept once
    return prepared.tokenizers.target.decode([store.pair(row)[1].tolist() for row in range(len(store))])


@pytest.mark.parametrize(
    ("lines", "pack", "expected"),
    [
        ([3, 3, 3, 1], True, [6, 4]),
        ([3, 3, 3, 1], False, [3, 3, 3, 1]),
        ([2, 0, 2, 2], True, [2, 4]),  # an empty line ends a document
        ([0, 0], True, []),
        ([2, 15, 2], True, [2, 6, 6, 5]),
        ([2, 15, 2], False, [2, 6, 6, 3, 2]),
        ([6, 12, 6], True, [6, 6, 6, 6]),
        ([], True, []),
    ],
)  # fmt: skip
def test_lines_become_examples(lines: list[int], pack: bool, expected: list[int]) -> None:
    values = np.arange(sum(lines), dtype=np.int32)
    found = examples(Ragged(values, np.array(lines, np.int64)), Data(task="denoising", pack=pack, max_tokens=6))
    assert found.lengths.tolist() == expected
    assert found.values is values


@pytest.mark.parametrize(
    ("lines", "pack", "expected"),
    [
        ([3, 2, 5], True, [[9, 8, 0, 1, 2], [9, 8, 3, 4], [9, 8, 5, 6, 7], [9, 8, 8, 9]]),
        ([2, 1], False, [[9, 8, 0, 1], [9, 8, 2]]), ([0], True, []),
    ],
)  # fmt: skip
def test_an_example_is_framed_once_however_many_lines_it_has(
    lines: list[int], pack: bool, expected: list[list[int]]
) -> None:
    values = Ragged(np.arange(sum(lines), dtype=np.int32), np.array(lines, np.int64))
    found = examples(values, Data(task="denoising", pack=pack, max_tokens=5), [9, 8])
    assert found.rows() == expected
    assert found.values.dtype == np.int32


@pytest.mark.usefixtures("text")
def test_what_is_dropped_are_examples_not_lines(capsys: Capture) -> None:
    """A long line makes many examples, of which the last may be too short."""
    put_file(A, "a b c d e f g h\n" * 9)
    put_file(B, "i j k l m n o\n")
    prepared = made(recipe_of(pack=False, min_tokens=3))
    assert (len(prepared.train), read_json(OUT / "manifest.json")["splits"]["train"]["dropped"]) == (
        10,
        {"too_short": 10},
    )
    assert "50.0% of the examples are dropped" in capsys.readouterr().err


@pytest.mark.usefixtures("text")
def test_files_are_one_text() -> None:
    prepared = made(recipe_of())
    assert targets(prepared, prepared.train) == ["a b c d e", "f g h", "i j k", "l l l l l l", "l l"]
    assert targets(prepared, prepared.valid) == ["a b c d e f", "g"]
    assert [(OUT / f"valid.{side}.txt").read_text() for side in ("source", "target")] == ["a b c d e f\ng\n"] * 2
    splits = read_json(OUT / "manifest.json")["splits"]
    assert list(splits) == ["train", "valid"]
    assert [Path(file["path"]).name for file in splits["train"]["text"].values()] == [A.name, B.name]
    fingerprint = prepared.train.fingerprint
    put_file(B, "other words\n")
    with pytest.raises(DataError, match=r"b\.txt\.gz was changed"):
        open_prepared(recipe_of(), OUT)
    assert made(recipe_of(), force=True).train.fingerprint != fingerprint


@pytest.mark.usefixtures("text")
def test_lines_of_their_own_short_examples_and_bad_bytes() -> None:
    put_file(A, b"a b c\n\xff b c d\nd e f\n\ng\n")
    prepared = made(recipe_of(pack=False, min_tokens=2), bad_utf8="skip")
    assert targets(prepared, prepared.train) == ["a b c", "d e f", "i j", "l l l l l l", "l l"]
    assert prepared.manifest["splits"]["train"]["dropped"] == {"bad_utf8": 1, "too_short": 2}
    assert targets(prepared, prepared.valid) == ["a b", "c d e f", "g"]


@pytest.mark.usefixtures("text")
def test_mistakes(janus: Janus) -> None:
    Path("x.csv").write_text("german,english\na,b\n")
    Path("r.yaml").write_text("name: r\ndata: {task: denoising}\ntokenizer: {kind: words}\n")
    put_file(Path("nothing.txt"), "\n\n")
    files = ("--train", A, B, "--valid", VALID)
    cases = {
        ("--train", A, "nowhere", "--valid", VALID): (3, "nowhere does not exist"),
        ("--train", A): (3, "no files for valid"),
        ("--train", "x.csv", "--valid", VALID): (3, "x.csv is a table (CSV), not plain text"),
        ("--train", "nothing.txt", "--valid", VALID): (3, "has no word"),
        ("--train", A, "--valid", "nothing.txt"): (3, "every line of the valid split is empty"),
        (*files, "--test", VALID): (2, "plain text has no test split"),
        (*files, "--set", "data.deduplicate=true"): (2, "deduplicate is for pairs"),
        (*files, "--set", "tokenizer.joint=false", "--set", "model.tie=none"): (2, "needs tokenizer.joint true"),
    }
    for words, (code, said) in cases.items():
        ends(janus("preprocess", "--recipe", "r.yaml", *map(str, words)), code, said)


@pytest.mark.usefixtures("text")
def test_sentence_ends_are_found_in_any_vocabulary() -> None:
    put_file(A, 'No. yes . ! what? "Go!" (end.) 3.5 … a.b\n')
    assert ending_words(made(recipe_of(max_tokens=20))) == {"No.", ".", "!", "what?", '"Go!"', "(end.)", "…"}
    put_file(A, "other words. b\n")
    assert ending_words(made(recipe_of(max_tokens=20), force=True)) == {"words."}  # the folder is read again


def ending_words(prepared: Prepared) -> set[str]:
    ends = sentence_ends(prepared.folder, prepared.train.fingerprint).nonzero().flatten().tolist()
    return set(prepared.tokenizers.target.decode([[index] for index in ends]))


def test_a_batch_is_noised_by_seed_epoch_and_example(tiny_recipe: Path) -> None:
    trainer = make_trainer(tiny_recipe, *PLAIN)
    recipe, store = trainer.recipe, trainer.prepared.train
    rows = np.arange(12)
    plain = load_batch(store, rows)
    assert plain.source.tolist() == [[EOS]] * 12
    batch = noised(plain, store, recipe, 3)
    expected = denoised(plain, Draws(recipe.seed, 3, plain.ids + NUMBERS), recipe.denoising)
    assert torch.equal(batch.source, expected.source)
    assert MASK in batch.source
    assert not torch.equal(batch.source, noised(plain, store, recipe, 4).source)
    one = noised(load_batch(store, rows[5:6]), store, recipe, 3).source[0]
    assert one.tolist() == batch.source[5][batch.source[5] != PAD].tolist()


@pytest.mark.parametrize("objective", ["janus", "bang"])
def test_stop_and_resume_equals_not_stopping(tiny_recipe: Path, objective: str) -> None:
    changes = (*PLAIN, "denoising.permute=0.5", "training.accumulate=3")
    whole = go(tiny_recipe, "whole", *changes, objective=objective)
    go(tiny_recipe, "run", *changes, "training.updates=3", objective=objective)
    parts = go(tiny_recipe, "run", "training.updates=8", resume=True)
    assert digest(whole / "step-000008") == digest(parts / "step-000008")
    assert entries(Path("run/log.jsonl"), "train")[-1]["epoch"] >= 1


def test_a_pretrained_model_learns_another_task(tiny_recipe: Path, janus: Janus, capsys: Capture) -> None:
    """The knobs of the noise are no part of the data; the weights go on with pairs, whose text has this tokenizer."""
    capsys.readouterr()
    go(tiny_recipe, "pre", *PLAIN, "objective.length=0")
    told, found = capsys.readouterr().err, Path("pre/run.txt").read_text()
    for text in (told, found):
        assert ("--from pre" in text, "janus decode --run" in text, "janus score" in text) == (True, False, False)
    assert "best loss" in told
    log = entries(Path("pre/log.jsonl"), "valid")
    assert all({"ce_ar", "ce_nar", "kl_ar_aux", "loss", "bleu_ar"} <= line.keys() for line in log)
    go(tiny_recipe, "other", *PLAIN, "denoising.share=0.4", "training.updates=1")
    assert janus("decode", "--run", "pre", "--split", "valid", "--mode", "ar")[0] == 0
    code, _, err = janus("compare", "--recipe", "tiny.yaml", *sets(*PLAIN), "--out", "compared")
    assert (code, "no test split" in err, Path("compared").exists()) == (2, True, False), err
    reuse = sets("tokenizer.reuse=pre")
    assert janus("preprocess", "--recipe", "tiny.yaml", *reuse, "--out", "pairs")[0] == 0
    options = ("--prepared", "pairs", "--from", "pre", "--run", "fine", *reuse, *sets("training.updates=2"))
    ends(janus("train", "--recipe", "tiny.yaml", *options), 0, "weights from ")


def test_batches_fit_the_budget_and_blocks_bound_memory(tiny_recipe: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(batching, "BLOCK", 32)
    monkeypatch.setattr(batching, "RUN", 4)
    trainer = make_trainer(tiny_recipe, *PLAIN)
    store = trainer.prepared.train
    seen = list[int]()
    for rows in epoch_batches(store, 128, 1, 0):
        batch = noised(load_batch(store, rows), store, trainer.recipe, 0)
        assert batch.target.numel() <= 128
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(store)))
