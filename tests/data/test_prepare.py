"""Text to a prepared folder: contents, counts, equal bytes, interruption, refusals."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_corpus import CORPUS, OUT, made, put, recipe_for, text

from janus_cli.core.symbols import SPECIAL, UNK
from janus_cli.data import corpus
from janus_cli.data.prepare import prepare, summary
from janus_cli.data.store import Store, store_files
from janus_cli.errors import DataError, JanusError
from janus_cli.files import sha256

pytestmark = pytest.mark.usefixtures("small_corpus")


def lines(path: Path) -> list[str]:
    return path.read_bytes().decode().removesuffix("\n").split("\n")


def ids(store: Store) -> list[list[list[int]]]:
    return [[side.tolist() for side in store.pair(index)] for index in range(len(store))]


def test_everything_is_there() -> None:
    data = made(recipe_for())
    stores = {name for split in ("train", "valid", "test") for name in store_files(split)}
    texts = {f"{split}.{side}.txt" for split in ("valid", "test") for side in ("source", "target")}
    there = {path.name for path in OUT.glob("[!.]*")}
    assert there == stores | texts | {"manifest.json", "tokenizer.json", "tokenizer.vocab.txt"}
    assert data.test is not None
    assert [len(store) for store in (data.train, data.valid, data.test)] == [60, 6, 5]
    encode = data.tokenizers.source.encode
    assert ids(data.train) == [list(pair) for pair in zip(*map(encode, text(60)), strict=True)]
    assert lines(OUT / "test.target.txt") == text(5, 70)[1]


def test_the_manifest_says_what_was_done() -> None:
    sources, targets = ["a a a", "", "b", "c c c c"] + ["a b"] * 6, ["x x x", "y", "y y y y", "z"] + ["x y"] * 6
    put(CORPUS, "train", sources, [*targets, "x y"])
    (CORPUS / "train.de").write_bytes((CORPUS / "train.de").read_bytes() + b"bad \xff\n")
    recipe = recipe_for(data={"deduplicate": True, "max_ratio": 3.5, "max_tokens": 5})
    manifest = prepare(recipe, OUT, workers=1, bad_utf8="skip")
    assert manifest == json.loads((OUT / "manifest.json").read_text("utf-8"))
    train = manifest["splits"]["train"]
    assert (train["in"], train["kept"]) == (11, 2)
    assert train["dropped"] == {"bad_utf8": 1, "duplicate": 5, "empty": 1, "ratio": 2}
    assert train["tokens"]["source"] == {"mean": 2.5, "p50": 2, "p95": 3, "max": 3, "sum": 5}
    assert train["text"]["source"]["sha256"] == sha256(CORPUS / "train.de")
    assert train["text"]["source"]["path"] == str((CORPUS / "train.de").resolve())
    assert (manifest["data"], manifest["tokenizer"]) == (recipe.plain()["data"], recipe.plain()["tokenizer"])
    assert set(manifest["versions"]) == {"janus", "sentencepiece", "numpy"}
    assert manifest["vocabulary"] == {"source": 11, "target": 11}
    for name, about in manifest["files"].items():
        assert about == {"sha256": sha256(OUT / name), "bytes": (OUT / name).stat().st_size}
    assert len(manifest["files"]) == len(list(OUT.glob("[!.]*"))) - 1
    lengths = Counter([1, 2, 2, 3, 3, 3, 4, 4, 4, 20])
    assert summary(lengths) == {"mean": 4.6, "p50": 3, "p95": 20, "max": 20, "sum": 46}


def test_valid_and_test_keep_all_lines_and_of_valid_is_counted_what_has_no_losses() -> None:
    long = " ".join(["w"] * 9)
    put(CORPUS, "valid", ["a", "", "b", long, "c d e f g"], ["x", "y", "", "x", "z"])
    put(CORPUS, "test", ["a", "", long, "e\u2028f", ""], ["x", "", "y", "", "z"])
    data = made(recipe_for(data={"max_tokens": 8}))
    assert lines(OUT / "valid.source.txt") == ["a", "", "b", long, "c d e f g"]
    assert lines(OUT / "valid.target.txt") == ["x", "y", "", "x", "z"]
    assert lines(OUT / "test.source.txt") == ["a", "", long, "e\u2028f", ""]
    assert lines(OUT / "test.target.txt") == ["x", "", "y", "", "z"]
    assert data.test is not None
    assert data.valid.lengths()[0].tolist() == [1, 0, 1, 9, 5]
    assert data.test.lengths()[0].tolist() == [1, 0, 9, 2, 0]
    assert data.manifest["splits"]["valid"]["dropped"] == {}
    assert data.manifest["splits"]["valid"]["left_out"] == {"empty": 2, "too_long": 1}


def test_a_test_split_without_references_or_none_at_all_and_compressed_text() -> None:
    plain = ids(made(recipe_for(), Path("plain")).train)
    (CORPUS / "test.en").unlink()
    data = made(recipe_for())
    assert not (OUT / "test.target.txt").exists()
    assert list(data.manifest["splits"]["test"]["text"]) == ["source"]
    assert data.test is not None
    assert ids(data.test) == [[row, []] for row in data.tokenizers.source.encode(text(5, 70)[0])]
    (CORPUS / "test.de").unlink()
    for path in list(CORPUS.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    data = made(recipe_for(), Path("none"))
    assert (data.test, ids(data.train)) == (None, plain)


def test_cleaning_comes_before_everything_and_parts_of_words_are_joined_in_references_only() -> None:
    put(CORPUS, "train", ["<b>Ä  B</b>", "<url>x</url>"], ["A &amp; b", "<url>x</url>"])
    put(CORPUS, "test", ["<seg>Häu@@ ser</seg>"], ["hou@@ ses"])
    clean = ("strip_tags", "unescape_html", "collapse_spaces", "lowercase")
    data = made(recipe_for(data={"clean": clean}, joiner="@@"))
    assert lines(OUT / "tokenizer.vocab.txt") == ["b", "&", "a", "ä"]
    assert data.manifest["splits"]["train"]["dropped"] == {"empty": 1}
    assert lines(OUT / "test.source.txt") == ["häu@@ ser"]
    assert lines(OUT / "test.target.txt") == ["houses"]


def test_sentences_are_marked_by_one_token(capsys: pytest.CaptureFixture[str]) -> None:
    """As `decoding.no_repeat_ngram` needs it; a vocabulary of other text may not have one, which is said."""
    summaries = [f"a man {n} runs . <S_SEP> some women {n} sing . <S_SEP> all boys {n} sleep ." for n in range(60)]
    put(CORPUS, "train", text(60)[0], summaries)
    plain, knobs = {"max_ratio": None}, {"kind": "sentencepiece", "vocabulary": 400, "byte_fallback": True}
    marked = {**plain, "clean": ("mark_sentences",)}
    data = made(recipe_for(data=marked, **knobs), Path("own"))
    ids = data.train.pair(3)[1].tolist()
    assert data.tokenizers.target.decode([ids]) == [summaries[3].replace("<S_SEP>", "¶")]
    assert len(ids) - 2 == len(set(zip(ids, ids[1:], ids[2:], strict=False)))  # no trigram twice
    made(recipe_for(data=plain, **knobs), Path("other"))
    assert "no_repeat_ngram" not in capsys.readouterr().err
    made(recipe_for(data=marked, **knobs, reuse="other"), Path("reused"))
    assert "no_repeat_ngram" in capsys.readouterr().err


def test_tokenizers_for_each_side_of_another_corpus_and_of_as_many_lines_as_asked() -> None:
    data = made(recipe_for(kind="sentencepiece", vocabulary=45, joint=False), Path("separate"))
    assert data.tokenizers.files == ["tokenizer.json", "source.model", "target.model"]
    assert data.tokenizers.target.decode([data.train.pair(3)[1].tolist()]) == ["the man 3 runs fast"]
    known = []
    for count in (1000, 20):  # of both sides together, 60 each
        data = made(recipe_for(train_lines=count), Path(str(count)))
        known.append(sum(UNK not in row for row in data.tokenizers.source.encode([str(n) for n in range(60)])))
    assert known == [60, 10]
    put(CORPUS, "train", ["neu der"], ["new the"])
    first, second = ids(made(recipe_for(reuse=str(Path("1000"))), Path("reused")).train)[0][0]
    assert first == UNK
    assert second >= SPECIAL


def contents(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.glob("[!.]*")}
    found["manifest.json"] = {**json.loads(found["manifest.json"]), "created": ""}
    return found


@pytest.mark.parametrize("tokenizer", [{}, {"kind": "sentencepiece", "vocabulary": 60}])
def test_one_or_two_processes_write_the_same_bytes(monkeypatch: pytest.MonkeyPatch, tokenizer: dict[str, Any]) -> None:
    monkeypatch.setattr(corpus, "CHUNK_LINES", 7)
    monkeypatch.setattr(corpus, "AT_ONCE", 2)
    put(CORPUS, "train", *(some + again for some, again in zip(text(60), text(9), strict=True)))
    recipe = recipe_for(data={"deduplicate": True}, **tokenizer)
    first, second = (made(recipe, Path(str(workers)), workers=workers) for workers in (1, 2))
    assert contents(first.folder) == contents(second.folder)
    assert len(first.train) == 60
    assert first.manifest["splits"]["train"]["dropped"] == {"duplicate": 9}


def test_a_worker_that_is_killed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("janus_cli.data.encode._work", _die)
    with pytest.raises(JanusError, match="a process that encodes text was killed"):
        prepare(recipe_for(), OUT, workers=2)
    assert [path.name for path in Path().iterdir()] == ["corpus"]


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
def test_an_interrupted_run_leaves_no_result_and_no_process(number: signal.Signals) -> None:
    out, program = OUT, Path("program.py")
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(CORPUS), str(out)]
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
    made(recipe_for(), out)
    assert sorted(path.name for path in Path().iterdir()) == ["corpus", "out", "program.py"]


@pytest.mark.parametrize("same", [True, False])
def test_text_that_changes_while_it_is_read(monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    file, plain = CORPUS / "train.en", corpus.sample

    def sample(*arguments: Any) -> Any:
        file.write_bytes(file.read_bytes() if same else file.read_bytes().replace(b"0", b"1", 1))
        return plain(*arguments)

    monkeypatch.setattr(corpus, "sample", sample)
    if same:
        made(recipe_for())
        return
    with pytest.raises(DataError, match=r"train\.en was changed while it was read"):
        made(recipe_for())
    assert not OUT.exists()
