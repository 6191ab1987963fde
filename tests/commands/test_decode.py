"""`janus decode` through the command line, on untrained models of every objective whose outputs nevertheless differ."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from math import exp
from pathlib import Path
from typing import Any

import pytest
from untrained import CHANGES, LINES, lines, make_run, records, source

from janus_cli import recipe_load
from janus_cli.core.knobs import OBJECTIVES as OBJECTIVE_KNOBS
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.data.prepare import prepare
from janus_cli.data.tokenizer import load_tokenizers
from janus_cli.decoding import decode
from janus_cli.decoding.modes import modes
from janus_cli.decoding.translate import Result
from janus_cli.engines import engine
from janus_cli.engines.session import written
from janus_cli.files import copy_files
from janus_cli.scoring.repeats import rates
from janus_cli.training import checkpoint
from tests.helpers import Janus, ends, printed, read_json, write_lines

KEPT = Path("runs/janus/decode")
STEPS = Path("runs/janus/checkpoints")
MODES = {
    "ar": ("ar",),
    "cmlm": ("nar",),
    "cmlmc": ("nar",),
    "cemat": ("nar",),
    "janus": ("ar", "nar", "spec"),
    "xlnet": ("ar",),
    "mpnet": ("ar", "nar"),
    "prophetnet": ("ar",),
    "bang": ("ar", "nar", "semi"),
}
ELSE = [(name, mode) for name in MODES for mode in ("ar", "nar", "semi", "spec") if mode not in MODES[name]]


def summary(run: str, label: str) -> dict[str, Any]:
    return read_json(f"runs/{run}/decode/{label}.json")


def test_the_test_split_goes_to_stdout_and_into_the_run(janus: Janus) -> None:
    code, out, err = janus()
    assert code == 0
    assert len(lines(out)) == LINES
    assert len(set(lines(out))) > LINES // 2
    assert "taking runs/janus" in err
    assert re.search(r"20 sentences in .* sentences/s, \d+ tokens/s, .* decoder passes .* p95 \d+ ms \(loading", err)
    assert (KEPT / "test.ar.beam3.txt").read_text(encoding="utf-8") == out
    assert (KEPT / "test.reference.txt").read_bytes() == Path("data/demo/test.target.txt").read_bytes()
    about = summary("janus", "test.ar.beam3")
    weights = read_json(STEPS / "step-000002/manifest.json")["files"]
    assert about["sha256"] == weights["model.safetensors"]["sha256"]
    assert (about["mode"], about["step"], about["checkpoint"], about["split"]) == ("ar", 2, "step-000002", "test")
    assert (about["hypotheses"], about["references"]) == ("test.ar.beam3.txt", ["test.reference.txt"])
    assert (about["sentences"], about["options"]["beam"], about["batches"]) == (LINES, 3, 3)
    found = records((KEPT / "test.ar.beam3.jsonl").read_text(encoding="utf-8"))
    assert [record["hypothesis"] for record in found] == lines(out)
    assert about["tokens"] == sum(len(record["tokens"]) for record in found)
    assert about["passes_mean"] == pytest.approx(sum(record["passes"] for record in found) / LINES, abs=1e-3)
    assert re.search(r"% of words repeat the one before, .* length \d\.\d\d of the references", err)
    texts, references = [record["hypothesis"] for record in found], about["references"][0]
    expected = rates(texts, [lines((KEPT / references).read_text(encoding="utf-8"))])
    assert about["repeats"] == {name: rate and round(rate, 5) for name, rate in expected.items()}


def test_setting_up_a_search_is_none_of_its_time(janus: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    late, now = 0.0, time.perf_counter

    def slowly(*given: Any) -> Any:
        nonlocal late
        late += 1000
        return written(*given)

    monkeypatch.setattr(engine, "written", slowly)
    for module in (time, engine, decode):
        monkeypatch.setattr(module, "perf_counter", lambda: now() + late)
    assert janus()[0] == 0
    about = summary("janus", "test.ar.beam3")
    assert late >= 1000 > max(about["seconds"], about["batch_latency_ms"]["p95"] / 1000)


def test_every_objective_has_its_modes() -> None:
    assert set(MODES) == set(OBJECTIVES) == set(OBJECTIVE_KNOBS)
    for name, expected in MODES.items():
        assert modes(recipe_load.load("demo", (), name)) == expected


def test_blocks_take_fewer_passes_and_are_named_after_their_size(janus: Janus) -> None:
    passes = []
    for block in ("1", "2", "9"):
        assert janus("--run", "bang", "--mode", "semi", "--block", block)[0] == 0
        about = summary("bang", f"test.semi{block}.norepeats")
        assert about["options"]["block"] == int(block)
        assert about["options"]["remove_repeats"]  # as its paper does
        passes.append(about["passes_mean"])
    assert passes[0] > passes[1] > passes[2]
    assert janus("--run", "bang", "--mode", "nar")[0] == 0
    assert summary("bang", "test.nar.eos.norepeats")["passes_mean"] == 1


@pytest.mark.parametrize(("name", "warned"), [("cmlm", True), ("mpnet", True), ("janus", True), ("cmlmc", False)])
def test_rewriting_what_stands_there_needs_a_model_that_learnt_it(janus: Janus, name: str, warned: bool) -> None:
    code, _, err = janus("--run", name, "--mode", "nar", "--update", "all")
    assert (code, "warning: --update all rewrites tokens" in err) == (0, warned)
    assert "rewrites tokens" not in janus("--run", name, "--mode", "nar", "--update", "hidden")[2]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--iters", "0", "--mode", "nar"], ["--iters"]),
        (["--beam", "0"], ["--beam"]),
        (["--beam", "2", "--nbest", "3"], ["--nbest 3", "--beam 2"]),
        (["--mode", "nar", "--length-beam", "2", "--nbest", "3"], ["--nbest 3", "--length-beam 2"]),
        (["--mode", "nar", "--length-beam", "39"], ["38 lengths"]),
        (["--mode", "spec", "--nbest", "2"], ["--nbest would change nothing", "--mode spec"]),
        (["--draft-iters", "2"], ["--draft-iters would change nothing", "--mode ar"]),
        (["--rerank", "ar", "--run", "cmlm"], ["--rerank ar", "objective cmlm"]),
        (["--iters", "4"], ["--iters would change nothing", "--mode ar", "add --mode nar, or leave it out"]),
        (["--mode", "nar", "--beam", "5"], ["--beam would change nothing", "--mode nar"]),
        (["--iters", "4", "--length-beam", "2", "--draft-length", "4"],
         ["--iters, --length-beam would change nothing", "add --mode nar, or leave them out"]),
        (["--temperature", "0.8", "--diversity", "0.5", "--iters", "6"],
         ["--diversity would change nothing: --temperature is on", "with --temperature 0, or leave it out"]),
        (["--top-k", "4"], ["--top-k would change nothing: --temperature is off", "add --temperature, or leave it"]),
        (["--block", "2"], ["--mode ar\nhint: leave it out"]),
        (["--run", "ar", "--iters", "4"], ["--mode ar\nhint: leave it out"]),
        (["--run", "mpnet", "--mode", "nar", "--block", "2"], ["--block would change nothing"]),
        (["--run", "bang", "--mode", "nar", "--iters", "4"],
         ["--iters would change nothing: this model writes all tokens in one"]),
        (["--run", "bang", "--mode", "nar", "--block", "2"], ["--block would change nothing"]),
        (["--run", "bang", "--mode", "nar", "--rerank", "ar"], ["writes all tokens in one pass", "hint: leave it out"]),
        (["--run", "bang", "--mode", "semi", "--block", "10"], ["at most 9 tokens"]),
        (["--run", "bang", "--mode", "semi", "--nbest", "2"], ["--nbest would", "add --mode ar, or leave it out"]),
        (["--length-penalty", "nan"], ["Invalid value for '--length-penalty'"]),
        (["--length-penalty", "400"], ["less than or equal to 10"]),
        (["--mode", "sideways"], ["sideways"]),
        (["--set", "model.width=32"], ["model.width=32", "only decoding.…"]),
        (["--set", "decoding.beem=2"], ["did you mean beam"]),
        (["--set", "decoding.iters=0"], ["iters"]),
        (["--input", "text", "--split", "test"], ["--input and --split"]),
        (["--run", "nowhere"], ["nowhere"]),
        (["--device", "abacus"], ["abacus"]),
        (["--mode", "nar", "--temperature", "0.5"], ["--temperature would change nothing", "add --mode ar"]),
        (["--mode", "spec", "--temperature", "0.5"], ["--temperature would change nothing", "--mode spec"]),
        (["--mode", "nar", "--diversity", "0.5", "--nbest", "2"], ["--diversity would change nothing", "--mode nar"]),
        (["--mode", "spec", "--no-repeat-ngram", "3"], ["--no-repeat-ngram would change nothing", "--mode spec"]),
        (["--mode", "nar", "--min-length", "3"], ["--min-length would change nothing", "--mode nar"]),
        (["--run", "mpnet", "--min-length", "3"], ["--min-length would change nothing", "predicts the length first"]),
        (["--mode", "ar", "--avoid-repeats"], ["--avoid-repeats would change nothing", "add --mode nar"]),
        (["--mode", "ar", "--rewrite-repeats", "1"], ["--rewrite-repeats would change nothing", "add --mode nar"]),
        (["--run", "bang", "--mode", "nar", "--rewrite-repeats", "1"], ["--rewrite-repeats would change nothing"]),
        (["--run", "cmlm", "--temperature", "1"], ["--temperature would change nothing", "leave it out"]),
        (["--top-p", "0.5"], ["--top-p would change nothing", "--temperature"]),
        (["--seed", "5"], ["--seed would change nothing", "--temperature"]),
        (["--groups", "3"], ["--groups would change nothing: --diversity is off"]),
        (["--temperature", "1", "--beam", "3"], ["--beam would change nothing: --temperature is on"]),
        (["--temperature", "1", "--diversity", "1"], ["--diversity would change nothing: --temperature is on"]),
        (["--diversity", "0.5"], ["--nbest is 1", "add --nbest"]),
        (["--diversity", "0.5", "--nbest", "2", "--beam", "3", "--groups", "2"], ["groups 2 does not divide beam 3"]),
        (["--diversity", "0.5", "--nbest", "4"], ["--nbest 4 is more than --beam 3"]),
        (["--mode", "nar", "--keep-lengths", "2"], ["--keep-lengths would change nothing: --rerank is none"]),
        (["--mode", "nar", "--rerank", "ar", "--keep-lengths", "2", "--length-beam", "5", "--nbest", "3"],
         ["--nbest 3 is more than --keep-lengths 2"]),
        (["--mode", "nar", "--sure", "0"], ["sure"]),
        (["--mode", "ar", "--sure", "0.5"], ["--sure would change nothing", "--mode nar"]),
        (["--min-length", "39"], ["min_length: 39", "max_length 40"]),
        (["--temperature", "-1"], ["--temperature"]),
        (["--temperature", "nan"], ["--temperature"]),
        (["--temperature", "1", "--top-p", "0"], ["top_p", "greater than 0"]),
        (["--temperature", "1", "--top-k", "-2"], ["--top-k"]),
        (["--no-repeat-ngram", "-1"], ["--no-repeat-ngram"]),
        (["--unk", "drop"], ["--unk"]),
        *((["--run", name, "--mode", mode], [f"objective {name}", f"use --mode {' or '.join(MODES[name])}"])
          for name, mode in ELSE),
    ],
)  # fmt: skip
def test_wrong_options_end_with_2_and_name_what_is_wrong(janus: Janus, arguments: list[str], named: list[str]) -> None:
    ends(janus(*arguments), 2, "error: ", "hint: ", *named, out="")
    assert not list(Path("runs").glob("*/decode"))


@pytest.mark.parametrize(
    ("spoil", "arguments", "code", "words"),
    [
        (lambda: Path("data/demo/test.source.txt").write_text("new\n"), [], 3, "was changed since"),
        (lambda: shutil.rmtree("data"), [], 3, "make it again: janus preprocess --recipe runs/janus/recipe.yaml"),
        (lambda: Path("data/demo/test.source.txt").unlink(), [], 3, "data/demo --force; or name a text"),
        (lambda: os.mkfifo("pipe.tsv"), ["--input", "pipe.tsv"], 3, "(TSV, by its name) must be named"),
        (lambda: shutil.rmtree(STEPS), [], 4, "no checkpoint yet"),
        (lambda: None, ["--checkpoint", "step-000009"], 4, "no checkpoint step-000009"),
        (lambda: None, ["--checkpoint", "data/demo", "--run", "janus"], 4, "is not a checkpoint"),
        (lambda: None, ["--checkpoint", "data/demo"], 2, "is not inside a run"),
        (lambda: None, ["--input", "nowhere.txt"], 3, "nowhere.txt does not exist"),
        (lambda: None, ["--input", "data"], 3, "data is a folder"),
        (lambda: Path("a.gz").write_bytes(gzip.compress(b"a\n" * 99)[:-9]), ["--input", "a.gz"], 3,
         "a.gz cannot be read"),
        (lambda: os.truncate(STEPS / "step-000002/model.safetensors", 99), [], 4, "model.safetensors"),
        (lambda: foreign_tokenizer(), [], 4, "its sha256 is not the one in manifest.json"),
        (lambda: no_test_split(), [], 3, "has no test split"),
    ],
)  # fmt: skip
def test_what_is_not_there_or_damaged_is_named(
    janus: Janus, spoil: Callable[[], object], arguments: list[str], code: int, words: str
) -> None:
    spoil()
    ends(janus(*arguments), code, words, out="")
    assert not list(KEPT.glob("*"))


def no_test_split() -> None:
    manifest = Path("runs/janus/manifest.json")
    manifest.write_text(manifest.read_text().replace('"test.source.txt"', '"another.txt"'))


def foreign_tokenizer() -> None:
    prepare(recipe_load.load("demo", [*CHANGES, "tokenizer.vocabulary=240"]), Path("other"), workers=1, force=False)
    copy_files(load_tokenizers(Path("other")).files, Path("other"), Path("runs/janus"))


def test_lines_are_what_stands_between_line_feeds_and_none_is_lost(janus: Janus) -> None:
    first, second = (line.encode() for line in source()[:2])
    joined = first + b"\xe2\x80\xa8" + second + b"\x0b\x0c\x1c\xc2\x85"
    text = b"\xef\xbb\xbf" + first + b"\r\n\n" + joined + b"\n   \n\xff" + second + b"\n\n" + second  # no final newline
    code, out, err = janus("--input", "-", stdin=text)
    assert code == 0
    plain = janus("--input", "-", stdin=first + b"\n" + second + b"\n")[1].split("\n")
    got = lines(out)
    assert len(got) == 7
    assert (got[0], got[1], got[3], got[5], got[6]) == (plain[0], "", "", "", plain[1])
    assert got[2]
    assert got[4]
    assert "byte order mark" in err
    assert "not UTF-8: 1" in err
    Path("text.gz").write_bytes(gzip.compress(text))
    assert janus("--input", "text.gz")[1] == out


def test_tables_are_decoded_by_column(janus: Janus) -> None:
    first, second = source()[:2]
    plain = janus("--input", "-", stdin=f"{first}\n\n{second}\n".encode())[1]
    Path("t.csv").write_text(f"id,text\n1,{first}\n2,\n3,{second}\n")
    write_lines("t.jsonl", (json.dumps({"source": text, "id": 1}) for text in (first, "", second)))
    shutil.copy("t.jsonl", "sources.txt")
    Path("t.TSV.gz").write_bytes(gzip.compress(f"{first}\n\n{second}\n".encode()))
    for arguments, said in (
        (["t.csv", "--column", "text"], "t.csv: CSV with commas; column text"),
        (["t.jsonl"], "t.jsonl: JSON lines; column source"),
        (["sources.txt"], "sources.txt: JSON lines; column source"),
        (["t.TSV.gz"], "t.TSV.gz: TSV, no header; column 1"),
        (["t.jsonl", "--set", "decoding.beam=3"], "t.jsonl: JSON lines; column source"),
    ):
        ends(janus("--input", *arguments), 0, said, out=plain)
    ends(janus("--input", "-", "--column", "text", stdin=Path("t.csv").read_bytes()), 0, out=plain)
    for arguments, number, said in (
        (["--input", "t.csv"], 3, "t.csv (CSV) has no column 'src'; its columns: 1 'id', 2 'text'"),
        (["--input", "t.csv", "--column", "txt"], 3, "t.csv (CSV) has no column 'txt'; its columns: 1 'id', 2 'text'"),
        (["--input", "t.jsonl", "--column", "id"], 3, 't.jsonl:1 has no text under "id": 1'),
        (["--column", "text"], 2, "--column needs a table"),
        (["--input", "t.csv", "--column", "txt"], 3, "did you mean text?"),
        (["--input", "data/demo/test.source.txt", "--column", "text"], 3, "leave out --column"),
    ):
        ends(janus(*arguments), number, said)


def test_an_empty_input_is_said(janus: Janus) -> None:
    Path("nothing.txt").touch()
    ends(janus("--input", "nothing.txt"), 0, "warning: nothing.txt is empty", out="")


def test_lines_that_are_json_without_our_keys_are_text(janus: Janus) -> None:
    """As the input of a data-to-text task."""
    Path("facts.txt").write_text('{"name": "mako"}\n' * 2)
    code, out, err = janus("--input", "facts.txt")
    assert (code, len(lines(out)), "JSON" in err) == (0, 2, False)
    assert janus("--input", "-", stdin=b'{"name": "mako"}\n' * 2)[1] == out


def test_a_line_of_a_megabyte_is_cut_with_one_warning(janus: Janus) -> None:
    first = source()[0]
    long = (first + " ") * ((1 << 20) // len(first))
    code, out, err = janus("--input", "-", stdin=f"{first}\n{long}\n{' '.join([first] * 9)}\n{first}\n".encode())
    got = lines(out)
    assert (code, len(got), got[0]) == (0, 4, got[3])
    assert got[1]
    assert err.count(" cut to the ") == 1
    assert "2 lines cut to the 39 tokens that the model reads" in err
    code, out, err = janus("--input", "-", stdin=b"\xc3\xa4" * (1 << 16) + b"\n" + first.encode())
    assert (code, len(lines(out))) == (0, 2)
    assert lines(out)[1] == got[0]
    assert "UTF-8" not in err  # a character cut in two is no mistake of the text


@pytest.mark.parametrize("mode", [["--mode", "ar"], ["--mode", "nar"], ["--mode", "spec"]])
@pytest.mark.parametrize("size", ["1", "64"])
def test_sources_of_nothing_give_lines_of_nothing(janus: Janus, mode: list[str], size: str) -> None:
    arguments = [*mode, "--input", "-", "--batch-sentences", size]
    assert janus(*arguments, stdin=b"")[:2] == (0, "")
    out = printed(janus(*arguments, "--jsonl", stdin=b"\n  \n\t\n\n"))
    assert [(r["hypothesis"], r["tokens"], r["score"], r["passes"]) for r in records(out)] == [("", [], 0.0, 0)] * 4
    among = records(janus(*arguments, "--jsonl", stdin=f"\n{source()[0]}\n\n".encode())[1])
    assert [bool(record["passes"]) for record in among] == [False, True, False]
    assert janus(*arguments, stdin=source()[0].encode())[1] == f"{among[1]['hypothesis']}\n"


def test_nbest_gives_lines_with_number_and_score_and_the_best_is_kept_for_scoring(janus: Janus) -> None:
    out = printed(janus("--nbest", "3"))
    cells = [line.split("\t", 2) for line in lines(out)]
    assert [int(number) for number, _, _ in cells] == [index for index in range(LINES) for _ in range(3)]
    for start in range(0, len(cells), 3):
        scores = [float(score) for _, score, _ in cells[start : start + 3]]
        assert scores == sorted(scores, reverse=True)
    assert lines((KEPT / "test.ar.beam3.nbest3.txt").read_text(encoding="utf-8")) == [text for _, _, text in cells[::3]]
    kept = records((KEPT / "test.ar.beam3.nbest3.jsonl").read_text(encoding="utf-8"))
    assert [h["hypothesis"] for record in kept for h in record["nbest"]] == [text for _, _, text in cells]


@pytest.mark.parametrize(("mode", "options"), [("ar", ()), ("nar", ("--rerank", "nar")), ("spec", ())])
def test_records_hold_what_the_scores_are_made_of(janus: Janus, mode: str, options: tuple[str, ...]) -> None:
    out = printed(janus("--mode", mode, *options, "--jsonl"))
    tokenizer = load_tokenizers(Path("runs/janus")).target
    for record, line in zip(records(out), source(), strict=True):
        assert record["source"] == line
        assert record["length"] == len(record["logps"]) == len(record["ids"]) + (mode != "nar")
        assert record["tokens"] == tokenizer.pieces(record["ids"])
        assert [record["hypothesis"]] == tokenizer.decode([record["ids"]])
        assert record["score"] == pytest.approx(sum(record["logps"]) / record["length"], abs=1e-5)
        assert record["passes"] <= 3 or mode != "nar"
        assert "trace" not in record


def test_the_trace_shows_each_pass_to_people_and_to_programs(janus: Janus) -> None:
    code, out, err = janus("--mode", "nar", "--iters", "4", "--trace-lines", "2", "--jsonl")
    assert code == 0
    found = records(out)
    assert ["trace" in record for record in found] == [True, True] + [False] * (LINES - 2)
    for record in found[:2]:
        n = record["length"]
        assert [step["iteration"] for step in record["trace"]] == [1, 2, 3, 4]
        assert [sum(step["hidden"]) for step in record["trace"]] == [n * 3 // 4, n // 2, n // 4, 0]
        assert record["trace"][-1]["tokens"] == record["tokens"]
        assert record["trace"][-1]["logp"] == record["logps"]
        assert f"sentence {record['index'] + 1}: {record['source']}" in err
    assert err.count("pass 1 of 4") == 2
    reads = next(line for line in err.split("\n") if line.strip().startswith("reads"))
    assert set(reads.split()[1:]) == {"____"}
    code, out, err = janus("--trace", "--jsonl")  # left to right there is one line of tokens
    assert (code, "pass 1" in err, "</s>" in err) == (0, False, True)
    sure = next(line for line in err.split("\n") if line.strip().startswith("sure")).split()[1:]
    assert sure[0] == f"{100 * exp(records(out)[0]['logps'][0]):.0f}%"


def test_output_files_are_not_overwritten_without_force(janus: Janus) -> None:
    Path("text").write_text(f"{source()[0]}\n{source()[1]}\n", encoding="utf-8")
    arguments = ["--input", "text", "--out", "mine.txt"]
    assert janus(*arguments)[:2] == (0, "")
    wanted = Path("mine.txt").read_bytes()
    assert wanted == janus("--input", "text")[1].encode()
    Path("mine.txt").write_text("precious", encoding="utf-8")
    ends(janus(*arguments), 2, "--force")
    assert Path("mine.txt").read_text(encoding="utf-8") == "precious"
    assert janus(*arguments, "--force")[0] == 0
    assert Path("mine.txt").read_bytes() == wanted
    Path("link").symlink_to("nowhere")
    for more in ([], ["--force"], ["--resume"]):
        code, _, err = janus("--input", "text", "--out", "link", *more)
        assert (code, "link is a symbolic link to nowhere, which does not exist" in err) == (2, True)
    for place in ("no/such/folder", "text/is/a/file"):
        for form in (["--input", "text"], []):
            ends(janus(*form, "--output", place), 3, f"{place} cannot be written")
    assert not [path for path in Path().rglob(".*") if path.is_file()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_it_without_a_traceback_and_without_half_files(janus: Janus) -> None:
    ends(janus("--out", "/dev/full"), 1, "No space left")
    assert [file.name for file in KEPT.iterdir()] == [".test.ar.beam3.jsonl.partial"]  # what was decoded is not lost
    assert janus("--resume")[0] == 0
    assert not list(KEPT.glob(".*"))
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "janus_cli", "decode"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert "No space left" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_text_is_not_replaced_by_its_translation(janus: Janus) -> None:
    Path("mine").write_text("ba\n")
    Path("link").symlink_to("mine")
    for out in ("mine", "./link"):
        ends(janus("--input", "mine", "--out", out, "--force"), 2, "which would be lost")
    assert Path("mine").read_text() == "ba\n"
    source = next(Path("data").glob("*/test.source.txt"))
    before = source.read_bytes()
    for out in (source, next(Path("data").glob("*/test.target.txt"))):
        ends(janus("--out", str(out), "--force"), 2, "which would be lost")
    assert source.read_bytes() == before
    ends(janus("--out", str(KEPT / "test.ar.beam3.json"), "--force"), 2, "is written anyway")


def test_a_name_may_be_as_long_as_the_file_system_allows(janus: Janus) -> None:
    Path("mine").write_text("ba\n")
    out = Path("x" * 200)
    assert janus("--input", "mine", "--out", str(out))[0] == 0
    assert len(out.read_text().splitlines()) == 1


def test_outputs_that_are_one_text_are_said(janus: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "one text" not in janus()[2]
    monkeypatch.setattr(Result, "_fields", lambda *_: {"hypothesis": "? ?", "score": 0.0})
    different = len(set(source()))
    assert f"of different sources, {different} of {different} outputs are one text: '? ?'" in janus()[2]


def test_a_checkpoint_without_its_zeros_is_found_by_its_number(janus: Janus) -> None:
    for step in (50, 250):
        (STEPS / f"step-{step:06}").mkdir()
    ends(janus("--checkpoint", "step-50"), 4, "did you mean step-000050?")


def test_checkpoints_by_name_folder_and_best(janus: Janus) -> None:
    def decoded(*arguments: str) -> str:
        return janus(*arguments, "--input", "-", stdin=source()[0].encode())[1]

    last, first = decoded(), decoded("--checkpoint", str(STEPS / "step-000001"))
    assert first != last
    assert decoded("--checkpoint", "step-000001") == first
    checkpoint.move_link(STEPS, "best", STEPS / "step-000001")
    assert decoded() == first
    assert decoded("--checkpoint", "last") == last


def test_a_dry_run_checks_and_writes_nothing(janus: Janus) -> None:
    before = sorted(Path().rglob("*"))
    ends(janus("--dry-run", "--mode", "nar"), 0, "would decode", "iters 3", out="")
    assert janus("--dry-run", "--nbest", "9")[0] == 2
    assert sorted(Path().rglob("*")) == before


def test_unknown_tokens_of_the_input_are_counted_and_said(janus: Janus) -> None:
    known = "".join(f"{line}\n" for line in source())
    assert "unknown" not in ends(janus("--input", "-", stdin=known.encode()), 0)
    err = ends(janus("--input", "-", stdin=f"{known}日本\n".encode()), 0)
    assert re.search(r"\nstdin: [12] of \d+ tokens \(0\.\d%\) are unknown to the tokenizer\n", err)
    err = ends(janus("--input", "-", stdin="日本 語\n\nсобака\n".encode()), 0)
    assert re.search(r"\nwarning: stdin: \d+ of \d+ tokens \(\d+\.\d%\) are unknown to the tokenizer: is this ", err)
    janus()
    about = summary("janus", "test.ar.beam3")
    read = sum(len(row) for row in load_tokenizers(Path("runs/janus")).source.encode(source()))
    assert [about[key] for key in ("source_tokens", "unknown_source_tokens", "sources_cut")] == [read, 0, 0]


def test_a_model_trained_on_cut_sources_cuts_them(janus: Janus) -> None:
    changes = ("data.truncate_source=true", "data.max_source_tokens=6")
    make_run(Path(), Path("data/demo"), "janus", *changes, name="cutting")
    longer = sum(len(row) > 6 for row in load_tokenizers(Path("runs/cutting")).source.encode(source()))
    ends(janus("runs/cutting"), 0, f"test.source.txt: {longer} lines cut to the 6 tokens that the model reads\n")
    assert summary("cutting", "test.ar.beam3")["sources_cut"] == longer > 0
