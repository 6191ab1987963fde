"""`janus bench` through the command line, on untrained models; no number that is a time decides anything."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from untrained import LINES, make_run, source, target

from janus_cli import recipe_load
from janus_cli.data.tokenizer import load_tokenizers
from janus_cli.errors import JanusError, OutOfMemoryError
from janus_cli.export.source import Source
from janus_cli.lab import peers, processes, rows, startup, threads
from janus_cli.lab.bench import sampled
from janus_cli.lab.labels import row_options
from janus_cli.lab.rows import Decoded, Row
from janus_cli.lab.threads import Threads
from janus_cli.runs import Run
from janus_cli.training.model import load_model
from tests.helpers import Janus, Patch, ends, printed, read_json

QUICK = ["--sentences", "4", "--repeats", "2", "--batches", "2,3", "--warmup", "1"]
ONE_ROW = ["janus", "--mode", "nar1.lb1", *QUICK]
MEMORY = {"before": 10 << 20, "peak": 30 << 20}
START = {"seconds": 3.0, "load": 0.5}
CPU = torch.device("cpu")
Orders = list[list[str]]


@pytest.fixture
def orders(monkeypatch: Patch) -> Orders:
    """The lines that the processes which measure memory and start would decode: none is started, all are alike."""
    given: Orders = []
    monkeypatch.setattr(processes, "peak_memory", lambda row, build, lines, *_: given.append(lines) or MEMORY)
    monkeypatch.setattr(processes, "first_sentence", lambda *call: given.append([call[2]["line"]]) or START)
    return given


@pytest.fixture
def janus(any_janus: Janus, orders: Orders) -> Janus:
    """Runs `janus bench`."""
    return partial(any_janus, "bench")


@pytest.fixture
def query(any_janus: Janus) -> Run:
    """A run whose left-to-right side CTranslate2 does not know."""
    return Run(make_run(Path(), Path("data/demo"), "ar", "objective.ar_stream=query", name="query"))


def files_of(run: str) -> list[Path]:
    """What decoding cannot do without: the weights and the tokenizer."""
    folder = Path("runs") / run
    return [folder / "checkpoints/step-000002/model.safetensors", *folder.glob("tokenizer*")]


def kept(run: str) -> Any:
    (file,) = Path(f"runs/{run}/bench").iterdir()
    return read_json(file)


@pytest.mark.parametrize("run", ["janus", "cmlm"])
def test_every_row_that_a_run_can_do_is_in_the_table_and_in_the_file(janus: Janus, run: str) -> None:
    code, out, err = janus(run, *QUICK)
    assert code == 0
    results = kept(run)
    rows = {row["label"]: row for row in results["rows"]}
    table = out.split("\n\n")[1].split("\n")
    assert [line.split("|")[1].strip() for line in table[2:]] == list(rows)
    assert set(rows) | set(results["left_out"]) == set(row_options())
    for label, why in results["left_out"].items():
        assert f"left out: {label}: {why}" in err
        assert why in out
    for row in rows.values():
        assert [len(seconds) for seconds in row["latency"]["seconds"]] == [4, 4]
        assert set(row["throughput"]["trials"]) == {"2", "3"}
        assert len(row["throughput"]["seconds"]) == 2
        assert row["memory"] == MEMORY
        assert row["start"]["load"] == {"median": 0.5, "lowest": 0.5, "highest": 0.5, "each": [0.5, 0.5]}
        assert row["start"]["seconds"]["median"] == 3.0
        assert row["engine"] == ("onnx" if row["mode"] in ("ar", "nar") or row["label"] == "spec" else "torch")
        assert row["disk"] == sum(file.stat().st_size for file in files_of(run))
        assert "tok:13a" in row["quality"]["signature"]
        assert row["passes"] >= 1
        assert ("ar.beam1" in row["ratios"]) == (run != "cmlm")
    assert (results["run"], results["checkpoint"], results["step"]) == (f"runs/{run}", "step-000002", 2)
    assert results["work"]["sentences"] == results["work"]["lines"] == results["work"]["singles"] == 4
    assert results["machine"]["cpu"] in out
    assert f"runs/{run}/bench/" in err
    if run == "janus":
        assert (rows["nar4.lb1"]["passes"], rows["nar10.lb5.rerank"]["passes"]) == (4, 11)


def test_rows_choose_their_threads_unless_they_are_fixed(janus: Janus, monkeypatch: Patch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    for options, tried in (([], {"1", "2"}), (["--threads", "3"], set())):
        shutil.rmtree("runs/janus/bench", ignore_errors=True)
        out = printed(janus(*ONE_ROW, *options))
        results = kept("janus")
        (row,) = results["rows"]
        for found in (row["latency"]["tried"], *row["throughput"]["tried"].values()):
            assert set(found) == tried
        for part in (row["latency"], row["throughput"]):
            assert part["threads"]["workers"] == 1
            assert part["threads"]["each"] in ({int(each) for each in tried} or {3})
        assert results["machine"]["threads"] == (None if tried else 3)
        assert ("3 threads" in out) == (not tried)


def test_sources_that_are_cut_are_counted(janus: Janus) -> None:
    data = Path("data/demo").resolve()
    sizes = sorted(map(len, load_tokenizers(data).source.encode(source())))
    longest = sizes[LINES // 2]
    cut = sum(size > longest for size in sizes)
    make_run(Path(), data, "ar", "data.truncate_source=true", f"data.max_source_tokens={longest}", name="short")
    code, out, err = janus("short", "--mode", "ar.beam1", "--repeats", "1", "--batches", "4")
    assert code == 0, err
    (warning,) = (text for text in kept("short")["warnings"] if "cut" in text)
    assert warning == f"{cut} lines cut to the {longest} tokens that the model reads"
    assert 1 < cut < LINES
    assert f"warning: {warning}" in err
    assert f"warning: {warning}" in out


def test_the_same_sentences_every_time_in_order_with_their_references(janus: Janus) -> None:
    run = Run(Path("runs/janus"))
    lines, references = found = sampled(run, recipe_load.load(str(run.recipe)), 5)
    assert sampled(run, recipe_load.load(str(run.recipe)), 5) == found
    pairs = list(zip(source(), target(), strict=True))
    assert references is not None
    chosen = list(zip(lines, references[0], strict=True))
    assert len(set(chosen)) == 5
    assert chosen == [pair for pair in pairs if pair in chosen]
    assert chosen != pairs[:5]


def test_bleu_is_that_of_decode_and_score_on_the_whole_split(janus: Janus, any_janus: Janus) -> None:
    assert janus("janus", "--mode", "nar4.lb1", "--repeats", "1", "--batches", "4")[0] == 0
    about = kept("janus")
    assert about["work"]["sentences"] == LINES
    options = ("--mode", "nar", "--iters", "4", "--length-beam", "1")
    assert any_janus("decode", "--run", "janus", *options, "--output", "out.txt")[0] == 0
    references = ("--reference", "data/demo/test.target.txt")
    scored = any_janus("score", "out.txt", *references, "--metrics", "bleu", "--json")[1]
    assert about["rows"][0]["quality"]["value"] == json.loads(scored)["scores"][0]["value"]


def test_files_are_written_once_and_replaced_with_force_and_each_bench_is_kept(janus: Janus) -> None:
    pytest.importorskip("matplotlib")
    quick = [*ONE_ROW, "--out", "found.json", "--plot", "plot.svg"]
    assert janus(*quick)[0] == 0
    assert read_json("found.json") == kept("janus")
    assert Path("plot.svg").read_text(encoding="utf-8").count("nar1.lb1") == 1
    Path("found.json").write_text("mine", encoding="utf-8")
    ends(janus(*quick), 2, "--force")
    assert Path("found.json").read_text(encoding="utf-8") == "mine"
    out = printed(janus(*quick, "--force", "--json"))
    assert json.loads(out) == read_json("found.json")
    assert len(list(Path("runs/janus/bench").iterdir())) == 2


def test_a_dry_run_measures_nothing_and_writes_nothing(janus: Janus, orders: Orders) -> None:
    before = sorted(Path().rglob("*"))
    err = ends(janus("ar", *QUICK, "--threads", "1", "--dry-run"), 0, "would measure runs/ar", "left out: spec", out="")
    # Of 2 rows: quality and memory 2 x 4, 2 batch sizes and 2 repeats 4 x 4, one by one 2 x 4, warm-up 4, start 2.
    assert re.search(r"76 translations: at most \d+ s", err)
    assert sorted(Path().rglob("*")) == before
    assert not orders


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cmlm", "--mode", "ar"], "ar.beam1, ar.beam5"),
        (["janus", "--batches", "16,x"], "16,x"),
        (["janus", "--batches", "0"], "--batches"),
        (["janus", "--against", "fairseq"], "fairseq"),
        (["janus", "--set", "model.width=8"], "model.width=8"),
        (["janus", "--set", "decoding.temperature=1"], "decoding.temperature=1"),
        (["janus", "--set", "decoding.beam=3"], "decoding.beam=3"),
        (["janus", "--out", "no/such/file.json"], "no/such"),
        (["janus", "--out", "runs", "--force"], "runs is a folder"),
        (["janus", "--device", "abacus"], "abacus"),
        (["janus", "--plot", "a.svg"], "[bench]"),
        (["janus", "--against", "ctranslate2"], "[peers]"),
        (["janus", "--against", "transformers"], "[peers]"),
    ],
)
def test_mistakes_are_named_before_anything_is_measured(
    janus: Janus, monkeypatch: Patch, arguments: list[str], words: str
) -> None:
    for extra in ("matplotlib", "ctranslate2", "transformers"):
        monkeypatch.setitem(sys.modules, extra, None)
    ends(janus(*arguments), 2, words, "hint:", out="")
    assert not list(Path("runs").glob("*/bench"))


def test_memory_is_measured_in_a_process_of_its_own(made: Path) -> None:
    run = Run(made / "runs" / "janus")
    folder = (run.checkpoints / "last").resolve()
    row = replace(Row("a", "nar", refused), batch=2, in_batches={2: Threads(1, 1)})
    found = processes.peak_memory(row, partial(rows.load, "nar1.lb1", run, folder, [], CPU), ["a b", ""], CPU)
    assert found["before"] is not None
    assert found["peak"] is not None
    assert 0 < found["before"] < found["peak"] < 1 << 40
    for work, words in (
        (partial(rows.load, "nar1.lb1", Run(Path("nowhere")), folder, [], CPU), "nowhere"),
        (partial(sys.exit, 3), "exit code 3"),
    ):
        with pytest.raises(JanusError, match=words):
            processes.peak_memory(row, work, ["a b", ""], CPU)


def test_a_process_that_starts_decodes_the_sentence_and_says_why_if_it_does_not(made: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(made)
    run = made / "runs" / "janus"
    about = {
        "label": "nar1.lb1", "run": str(run), "folder": str(run / "checkpoints" / "step-000002"), "changes": [],
        "device": "cpu", "line": source()[0], "threads": 1,
    }  # fmt: skip
    row = rows.load("nar1.lb1", Run(run), Path(str(about["folder"])), [], CPU)
    assert startup.ENGINES[row.engine](about)()(source()[0]) == row.translate(source()[:1], 1).texts[0]
    found = processes.first_sentence("a", row.engine, about)
    assert 0 < found["load"] < found["seconds"]
    with pytest.raises(JanusError, match=r"a: .*nowhere"):
        processes.first_sentence("a", row.engine, about | {"folder": "nowhere"})


def refused(lines: Sequence[str], batch: int) -> Decoded:
    raise AssertionError("decoded in another process")


@pytest.mark.parametrize("problem", [MemoryError(), RuntimeError("CUDA out of memory")])
def test_a_batch_that_does_not_fit_into_the_memory_of_a_process_is_told_apart_from_a_bug(problem: Exception) -> None:
    def translate(lines: Sequence[str], batch: int) -> Decoded:
        raise problem if lines == ["a"] else RuntimeError("a tensor has the wrong shape")

    with pytest.raises(RuntimeError, match="wrong shape"):
        processes.timed(Row("a", "peer", translate), ["b"], 2, CPU)
    with pytest.raises(OutOfMemoryError, match="memory"):
        processes.timed(Row("a", "peer", translate), ["a"], 2, CPU)


@pytest.mark.parametrize("why", [errno.EEXIST, errno.EACCES])
def test_what_cannot_be_kept_or_measured_costs_that_and_not_the_bench(
    janus: Janus, monkeypatch: Patch, why: int
) -> None:
    """A file is in the way, or the run is another user's."""

    def mkdir(path: Path, *_: object, **__: object) -> None:
        raise OSError(why, os.strerror(why), str(path))

    def peak_memory(row: Row, *_: Any) -> dict[str, int]:
        if row.label == "ar.beam5":
            raise JanusError("killed")
        return MEMORY

    def first_sentence(label: str, *_: Any) -> dict[str, float]:
        if label == "ar.beam1":
            raise JanusError("ar.beam1: no start")
        return START

    monkeypatch.setattr(processes, "peak_memory", peak_memory)
    monkeypatch.setattr(processes, "first_sentence", first_sentence)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    code, out, err = janus("ar", *QUICK, "--out", "mine.json")
    assert code == 0, err
    assert f"runs/ar/bench cannot be written: {os.strerror(why)}" in err
    rows = {row["label"]: row for row in read_json("mine.json")["rows"]}
    assert [row["memory"] for row in rows.values()] == [MEMORY, None]
    assert (rows["ar.beam1"]["start"], rows["ar.beam5"]["start"]["load"]["median"]) == (None, START["load"])
    for text in (out, err):
        assert "ar.beam5: its memory could not be measured: killed" in text
        assert "ar.beam1: no start" in text


@pytest.mark.parametrize("peer", ["ctranslate2", "transformers"])
@pytest.mark.filterwarnings("default")  # of a library that is not ours
def test_a_peer_has_the_weights_of_the_run(janus: Janus, monkeypatch: Patch, peer: peers.Peer) -> None:
    """In processes of their own, which take seconds to start."""
    pytest.importorskip(peer)
    monkeypatch.setattr(peers, "BEAMS", (1,))
    monkeypatch.setitem(peers.COMPUTE_TYPES, "cpu", ("float32",))
    assert janus("janus", "--mode", "ar.beam1", *QUICK, "--against", peer)[0] == 0
    ours, other = kept("janus")["rows"]
    label = f"{peer}.float32.beam1" if peer == "ctranslate2" else f"{peer}.beam1"
    assert (other["label"], other["engine"], label in ours["ratios"]) == (label, peer, True)
    assert other["disk"] > 1000
    assert other["start"] is not None
    assert other["quality"]["value"] == pytest.approx(ours["quality"]["value"])


@pytest.mark.parametrize(("run", "mode"), [("query", "ar.beam1"), ("cmlm", "nar1.lb1")])
def test_a_peer_that_has_no_such_model_is_left_out(query: Run, janus: Janus, run: str, mode: str) -> None:
    pytest.importorskip("ctranslate2")
    out = printed(janus(run, "--mode", mode, *QUICK, "--against", "ctranslate2"))
    found = kept(run)
    assert [row["label"] for row in found["rows"]] == [mode]
    assert [*found["left_out"]] == ["ctranslate2"]
    assert "left out: ctranslate2: this model was trained with objective" in out


@pytest.mark.filterwarnings("default")
def test_ctranslate2_translates_the_same_whatever_its_threads_and_starts_without_torch(
    made: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    pytest.importorskip("ctranslate2")
    monkeypatch.chdir(made)
    run = Run(made / "runs" / "ar")
    recipe, tokenizers = recipe_load.load(str(run.recipe)), load_tokenizers(run.path)
    model = load_model(run.checkpoints / "last")
    about = dict.fromkeys(("run", "checkpoint", "step", "objective", "sha256", "janus"), "x")
    peers.export("ctranslate2", Source(recipe, model, tokenizers, run.path, {}, about), CPU, tmp_path)
    setting = peers.Setting("ctranslate2", recipe, tokenizers, CPU, tmp_path, run.path)
    row = peers.row(setting, "ctranslate2.float32.beam1")
    texts = []
    for each in (Threads(1, 1), Threads(1, 2), Threads(2, 1)):
        row.use(each)
        texts.append(row.translate(source(), 3).texts)
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0])) > 10, "each line has its own output"
    sizes = [peers.disk_bytes(setting, f"ctranslate2.{kind}.beam1") for kind in ("float32", "int8")]
    assert sizes[0] > sizes[1] > 1000
    first = json.dumps(peers.first(setting, row.label, source()[0], 1))
    program = f"""import json, sys
from janus_cli.lab import startup
print(startup.ENGINES["ctranslate2"](json.loads(sys.argv[1]))()({source()[0]!r}))
assert "torch" not in sys.modules"""
    done = subprocess.run([sys.executable, "-c", program, first], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip("\n") == texts[0][0]
