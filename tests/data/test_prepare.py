"""Text to a prepared folder: contents, counts, equal bytes, interruption, refusals."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_corpus import made, put, recipe_for, text

from janus_cli.core.symbols import SPECIAL, UNK
from janus_cli.data import corpus
from janus_cli.data.prepare import prepare
from janus_cli.data.prepared import open_prepared
from janus_cli.data.store import Store, store_files
from janus_cli.errors import DataError, JanusError, UsageError
from janus_cli.files import sha256
from janus_cli.recipe import Data, Recipe, Synthetic, Tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "multi30k"


def lines(path: Path) -> list[str]:
    return path.read_bytes().decode().removesuffix("\n").split("\n")


def ids(store: Store) -> list[list[list[int]]]:
    return [[side.tolist() for side in store.pair(index)] for index in range(len(store))]


def test_everything_is_there(corpus_folder: Path, tmp_path: Path) -> None:
    data = made(recipe_for(corpus_folder), tmp_path / "out")
    stores = {name for split in ("train", "valid", "test") for name in store_files(split)}
    texts = {f"{split}.{side}.txt" for split in ("valid", "test") for side in ("source", "target")}
    there = {path.name for path in (tmp_path / "out").glob("[!.]*")}
    assert there == stores | texts | {"manifest.json", "tokenizer.json", "tokenizer.vocab.txt"}
    assert data.test is not None
    assert [len(store) for store in (data.train, data.valid, data.test)] == [60, 6, 5]
    encode = data.tokenizers.source.encode
    assert ids(data.train) == [list(pair) for pair in zip(*map(encode, text(60)), strict=True)]
    assert lines(tmp_path / "out" / "test.target.txt") == text(5, 70)[1]


def test_the_manifest_says_what_was_done(corpus_folder: Path, tmp_path: Path) -> None:
    sources, targets = ["a a a", "", "b", "c c c c"] + ["a b"] * 6, ["x x x", "y", "y y y y", "z"] + ["x y"] * 6
    put(corpus_folder, "train", sources, [*targets, "x y"])
    (corpus_folder / "train.de").write_bytes((corpus_folder / "train.de").read_bytes() + b"bad \xff\n")
    recipe = recipe_for(corpus_folder, data={"deduplicate": True, "max_ratio": 3.5, "max_tokens": 5})
    manifest = prepare(recipe, tmp_path / "out", workers=1, bad_utf8="skip")
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    train = manifest["splits"]["train"]
    assert (train["in"], train["kept"]) == (11, 2)
    assert train["dropped"] == {"bad_utf8": 1, "duplicate": 5, "empty": 1, "ratio": 2}
    assert train["tokens"]["source"] == {"mean": 2.5, "p50": 2, "p95": 3, "max": 3, "sum": 5}
    assert train["text"]["source"]["sha256"] == sha256(corpus_folder / "train.de")
    assert train["text"]["source"]["path"] == str((corpus_folder / "train.de").resolve())
    assert (manifest["data"], manifest["tokenizer"]) == (recipe.plain()["data"], recipe.plain()["tokenizer"])
    assert set(manifest["versions"]) == {"janus", "sentencepiece", "numpy"}
    assert manifest["vocabulary"] == {"source": 11, "target": 11}
    for name, about in manifest["files"].items():
        assert about == {"sha256": sha256(tmp_path / "out" / name), "bytes": (tmp_path / "out" / name).stat().st_size}
    assert len(manifest["files"]) == len(list((tmp_path / "out").glob("[!.]*"))) - 1


def test_length_statistics_are_exact(corpus_folder: Path, tmp_path: Path) -> None:
    words = [1, 2, 2, 3, 3, 3, 4, 4, 4, 20]
    put(corpus_folder, "train", *[[" ".join(["w"] * count) for count in words]] * 2)
    manifest = prepare(recipe_for(corpus_folder), tmp_path / "out", workers=1)
    assert manifest["splits"]["train"]["tokens"]["target"] == {"mean": 4.6, "p50": 3, "p95": 20, "max": 20, "sum": 46}


def test_the_test_split_keeps_all_lines_and_valid_only_what_a_model_can_read(
    corpus_folder: Path, tmp_path: Path
) -> None:
    long = " ".join(["w"] * 9)
    put(corpus_folder, "valid", ["a", "", "b", long, "c d e f g"], ["x", "y", "", "x", "z"])
    put(corpus_folder, "test", ["a", "", long, "e\u2028f", ""], ["x", "", "y", "", "z"])
    data = made(recipe_for(corpus_folder, data={"max_tokens": 8}), tmp_path / "out")
    assert lines(tmp_path / "out" / "valid.source.txt") == ["a", "c d e f g"]
    assert lines(tmp_path / "out" / "valid.target.txt") == ["x", "z"]
    assert lines(tmp_path / "out" / "test.source.txt") == ["a", "", long, "e\u2028f", ""]
    assert lines(tmp_path / "out" / "test.target.txt") == ["x", "", "y", "", "z"]
    assert data.test is not None
    assert data.valid.lengths()[0].tolist() == [1, 5]
    assert data.test.lengths()[0].tolist() == [1, 0, 9, 2, 0]
    assert data.manifest["splits"]["valid"]["dropped"] == {"empty": 2, "too_long": 1}


def test_a_test_split_without_references_or_none_at_all(corpus_folder: Path, tmp_path: Path) -> None:
    (corpus_folder / "test.en").unlink()
    data = made(recipe_for(corpus_folder), tmp_path / "out")
    assert not (tmp_path / "out" / "test.target.txt").exists()
    assert list(data.manifest["splits"]["test"]["text"]) == ["source"]
    assert data.test is not None
    assert ids(data.test) == [[row, []] for row in data.tokenizers.source.encode(text(5, 70)[0])]
    (corpus_folder / "test.de").unlink()
    assert made(recipe_for(corpus_folder), tmp_path / "none").test is None


def test_cleaning_comes_before_everything(corpus_folder: Path, tmp_path: Path) -> None:
    put(corpus_folder, "train", ["<b>Ä  B</b>", "<url>x</url>"], ["A &amp; b", "<url>x</url>"])
    put(corpus_folder, "test", ["<seg>Ä</seg>"], ["X"])
    recipe = recipe_for(corpus_folder, data={"clean": ("strip_tags", "unescape_html", "collapse_spaces", "lowercase")})
    data = made(recipe, tmp_path / "out")
    assert lines(tmp_path / "out" / "tokenizer.vocab.txt") == ["b", "&", "a", "ä"]
    assert data.manifest["splits"]["train"]["dropped"] == {"empty": 1}
    assert lines(tmp_path / "out" / "test.source.txt") == ["ä"]


def test_parts_of_words_are_joined_in_references_only(corpus_folder: Path, tmp_path: Path) -> None:
    put(corpus_folder, "test", ["Häu@@ ser"], ["hou@@ ses"])
    made(recipe_for(corpus_folder, joiner="@@"), tmp_path / "out")
    assert lines(tmp_path / "out" / "test.source.txt") == ["Häu@@ ser"]
    assert lines(tmp_path / "out" / "test.target.txt") == ["houses"]


def test_compressed_text_gives_the_same_ids(corpus_folder: Path, tmp_path: Path) -> None:
    plain = made(recipe_for(corpus_folder), tmp_path / "plain")
    for path in list(corpus_folder.iterdir()):
        (path.with_name(path.name + ".gz")).write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert ids(made(recipe_for(corpus_folder), tmp_path / "packed").train) == ids(plain.train)


def test_tokenizers_for_each_side_of_another_corpus_and_of_as_many_lines_as_asked(
    corpus_folder: Path, tmp_path: Path
) -> None:
    data = made(recipe_for(corpus_folder, kind="sentencepiece", vocabulary=45, joint=False), tmp_path / "separate")
    assert data.tokenizers.files == ["tokenizer.json", "source.model", "target.model"]
    assert data.tokenizers.target.decode([data.train.pair(3)[1].tolist()]) == ["the man 3 runs fast"]
    known = []
    for count in (1000, 20):  # of both sides together, 60 each
        data = made(recipe_for(corpus_folder, train_lines=count), tmp_path / str(count))
        known.append(sum(UNK not in row for row in data.tokenizers.source.encode([str(n) for n in range(60)])))
    assert known == [60, 10]
    put(corpus_folder, "train", ["neu der"], ["new the"])
    first, second = ids(made(recipe_for(corpus_folder, reuse=str(tmp_path / "1000")), tmp_path / "reused").train)[0][0]
    assert first == UNK
    assert second >= SPECIAL


def test_synthetic_text_depends_on_the_seed_only(tmp_path: Path) -> None:
    data = Data(synthetic=Synthetic(train=50, valid=5, test=5))
    recipe = Recipe(name="made", data=data, tokenizer=Tokenizer(kind="words"))
    prints = []
    for index, seed in enumerate((1, 1, 2)):
        prints.append(made(replace(recipe, seed=seed), tmp_path / str(index)).train.fingerprint)
        assert not (tmp_path / str(index) / "text").exists()
        open_prepared(recipe, tmp_path / str(index))  # training has seeds of its own: no mistake
    assert prints[0] == prints[1] != prints[2]


def contents(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.glob("[!.]*")}
    found["manifest.json"] = {**json.loads(found["manifest.json"]), "created": ""}
    return found


@pytest.mark.parametrize("tokenizer", [{}, {"kind": "sentencepiece", "vocabulary": 60}])
def test_one_or_two_processes_write_the_same_bytes(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: dict[str, Any]
) -> None:
    monkeypatch.setattr(corpus, "CHUNK_LINES", 7)
    put(corpus_folder, "train", *(some + again for some, again in zip(text(60), text(10), strict=True)))
    recipe = recipe_for(corpus_folder, data={"deduplicate": True}, **tokenizer)
    first, second = (made(recipe, tmp_path / str(workers), workers=workers) for workers in (1, 2))
    assert contents(first.folder) == contents(second.folder)
    assert len(first.train) == 60
    assert first.manifest["splits"]["train"]["dropped"] == {"duplicate": 10}


def test_a_worker_that_is_killed_is_reported(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("janus_cli.data.encode._work", _die)
    with pytest.raises(JanusError, match="a process that encodes text was killed"):
        prepare(recipe_for(corpus_folder), tmp_path / "out", workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


PROGRAM = """
import signal
import sys
from pathlib import Path
from janus_cli.recipe import Data, Recipe, Tokenizer
from janus_cli.data import prepare
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts in the background
    add = prepare.StoreWriter.add
    def slowly(self, *rest):
        add(self, *rest)
        print("wrote", flush=True)
        sys.stdin.readline()
    prepare.StoreWriter.add = slowly
    data = Data(source="de", target="en", dir=sys.argv[1])
    recipe = Recipe(name="tiny", data=data, tokenizer=Tokenizer(kind="words", vocabulary=500))
    prepare.prepare(recipe, Path(sys.argv[2]), workers=2)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_no_result_and_no_process(
    corpus_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out, program = tmp_path / "out", tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(corpus_folder), str(out)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"wrote\n"
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    workers = [pid for file in children for pid in file.read_text().split()]
    assert len(workers) >= 2
    process.send_signal(number)
    process.wait(timeout=60)
    process.stdin.close()
    process.stdout.close()
    assert not out.exists()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.01)
    made(recipe_for(corpus_folder), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "out", "program.py"]


def test_nothing_is_written_over_prepared_data_without_force(corpus_folder: Path, tmp_path: Path) -> None:
    made(recipe_for(corpus_folder), tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(UsageError, match="holds prepared data already"):
        prepare(recipe_for(corpus_folder, vocabulary=9), tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert made(recipe_for(corpus_folder, vocabulary=9), tmp_path / "out", force=True).train.source_vocabulary == 9
    for change in ((tmp_path / "out" / "recipe.yaml").touch, (tmp_path / "out" / "manifest.json").unlink):
        change()  # now it is a run, or something else
        with pytest.raises(UsageError, match="holds something other"):
            prepare(recipe_for(corpus_folder), tmp_path / "out", force=True)


def overwrite(split: str, de: bytes, en: bytes | None = None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / f"{split}.de").write_bytes(de)
        (folder / f"{split}.en").write_bytes(de if en is None else en)

    return change


@pytest.mark.parametrize(
    ("change", "tokenizer", "message"),
    [
        (overwrite("train", b"a\nb\n", b"a\n"), {}, r"train\.de has 2 lines, .*train\.en has 1 line; .* at line"),
        (overwrite("test", b"a\n", b"a\nb\n"), {}, r"test\.de has 1 line, .*test\.en has 2"),
        (overwrite("train", b""), {}, r"train\.de is empty"),
        (overwrite("valid", b"a\n", b""), {}, r"valid\.en is empty"),
        (overwrite("train", b"a\nb \xff\n"), {}, r"train\.de:2:3: byte 0xff"),
        (overwrite("train", b"a\n\n", b"\nb\n"), {}, r"every pair of the train split was dropped: empty 2"),
        (overwrite("train", b"a\n", b"a a a a\n"), {}, r"every pair of the train split was dropped: ratio 1"),
        (overwrite("valid", b"\n"), {}, r"every pair of the valid split was dropped: empty 1"),
        (overwrite("train", b"\n"), {}, "has no word"),
        (overwrite("train", b"\n"), {"kind": "sentencepiece"}, "no line to train"),
        (overwrite("train", b"One sentence.\n"), {"kind": "sentencepiece"}, r"vocabulary 500 is more .* at most \d+"),
        (overwrite("train", b"x" * 999_999 + b"\n"), {"kind": "sentencepiece"}, "vocabulary 500 is more than the text"),
        (lambda folder: shutil.rmtree(folder), {}, "does not exist"),
        (lambda folder: (folder / "valid.en").unlink(), {}, r"valid\.en \(or \.gz\) is not there"),
    ],
)
def test_text_that_cannot_be_used_is_refused_and_nothing_is_written(
    corpus_folder: Path, tmp_path: Path, change: Callable[[Path], None], tokenizer: dict[str, Any], message: str
) -> None:
    change(corpus_folder)
    with pytest.raises(DataError, match=message):
        prepare(recipe_for(corpus_folder, **tokenizer), tmp_path / "deep" / "out", workers=1)
    assert not (tmp_path / "deep").exists()


def test_a_line_of_a_megabyte_is_dropped_and_counted(corpus_folder: Path, tmp_path: Path) -> None:
    sources, targets = text(40)
    put(corpus_folder, "train", [*sources, "wort " * 200_000], [*targets, "word " * 200_000])
    data = made(recipe_for(corpus_folder, kind="sentencepiece", vocabulary=60), tmp_path / "out")
    assert data.manifest["splits"]["train"]["dropped"] == {"too_long": 1}
    assert len(data.train) == 40


@pytest.mark.parametrize("same", [True, False])
def test_text_that_changes_while_it_is_read(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    file, plain = corpus_folder / "train.en", corpus.sample

    def sample(*arguments: Any) -> Any:
        file.write_bytes(file.read_bytes() if same else file.read_bytes().replace(b"0", b"1", 1))
        return plain(*arguments)

    monkeypatch.setattr(corpus, "sample", sample)
    if same:
        made(recipe_for(corpus_folder), tmp_path / "out")
        return
    with pytest.raises(DataError, match=r"train\.en was changed while it was read"):
        made(recipe_for(corpus_folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_was_done_with_bad_bytes_is_noted_and_said(
    corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus_folder / "train.de").write_bytes((corpus_folder / "train.de").read_bytes().replace(b"Mann 3 ", b"M\xff 3 "))
    assert made(recipe_for(corpus_folder), tmp_path / "out", bad_utf8="replace").manifest["bad_utf8"] == "replace"
    assert "train: 60 of 60 pairs kept; mended: 1 that are not UTF-8" in capsys.readouterr().err
    with pytest.raises(DataError) as caught:
        open_prepared(recipe_for(corpus_folder, vocabulary=99), tmp_path / "out")
    assert "--bad-utf8 replace" in caught.value.hint


@pytest.mark.skipif(not SHARED.is_dir(), reason="multi30k is not at hand")
def test_multi30k(tmp_path: Path) -> None:
    data = made(recipe_for(SHARED, kind="sentencepiece", vocabulary=8000), tmp_path / "out", workers=2)
    assert data.test is not None
    assert (len(data.train), len(data.valid), len(data.test)) == (28_998, 1014, 1000)
    assert data.manifest["splits"]["train"]["dropped"] == {"ratio": 2}
    assert 13 < data.manifest["splits"]["train"]["tokens"]["target"]["mean"] < 16
    assert data.train.source_vocabulary == 8000
    assert (tmp_path / "out" / "test.target.txt").read_bytes() == (SHARED / "test.en").read_bytes()
    decoded = data.tokenizers.target.decode([target for _, target in ids(data.test)])
    assert sum(a == b for a, b in zip(decoded, lines(SHARED / "test.en"), strict=True)) > 950
