"""`janus decode` stopped half-way, by whatever it may be, and resumed: not a line is lost, not a byte differs."""

import fcntl
import gzip
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from untrained import LINES, Stop, lines, resume_command, source

from janus_cli import console
from janus_cli.core.batch import UNK
from janus_cli.data.tokenizer import load_tokenizers
from janus_cli.decoding import decode
from janus_cli.decoding.translate import Translator
from janus_cli.device import SIGNALS
from janus_cli.engines.engine import Engine
from janus_cli.training import checkpoint
from tests.helpers import Janus, Patch, ends

SMALL = ("--batch-sentences", "2")  # windows of four lines, see `stop`
BEGUN = ("--input", "text", "--output", "mine", *SMALL)
KEPT = Path("runs/janus/decode")
PARTIAL = KEPT / ".test.ar.beam3.jsonl.partial"
CHECKPOINTS = Path("runs/janus/checkpoints")
READING = ("source_tokens", "unknown_source_tokens", "sources_cut")


@pytest.fixture(autouse=True)
def _text(janus: Janus) -> None:
    """The file `text`, the source of the test split."""
    Path("text").write_text("".join(f"{line}\n" for line in source()), encoding="utf-8")


@pytest.fixture
def whole(janus: Janus, stop: Stop) -> bytes:
    """What `janus decode *BEGUN` writes when nothing stops it."""
    janus(*BEGUN)
    data = Path("mine").read_bytes()
    Path("mine").unlink()
    return data


def hidden() -> list[str]:
    return sorted(file.name for file in Path().rglob(".*") if file.is_file())


def published() -> dict[str, bytes]:
    """The files of a decoded split but for its summary."""
    return {file.name: file.read_bytes() for file in KEPT.iterdir() if file.suffix != ".json"}


@pytest.mark.parametrize("mode", ["ar", "nar"])
@pytest.mark.parametrize("form", ["", "--jsonl", "--nbest 2 --trace-lines 6 --jsonl", "--nbest 2"])
def test_an_interrupted_file_is_resumed_to_the_same_bytes(janus: Janus, halted: Janus, mode: str, form: str) -> None:
    arguments = ["--mode", mode, *form.split(), *SMALL, "--input", "text", "--output"]
    assert janus(*arguments, "whole")[0] == 0
    err = ends(
        halted(2, *arguments, "cut"), 130, "stopped by SIGINT; 8 finished lines are kept in .cut.partial", out=""
    )
    assert not Path("cut").exists()
    for _ in range(2):
        err = ends(halted(1, *resume_command(err)), 130)
    assert "16 finished lines" in err
    ends(janus(*resume_command(err)), 0, "resuming after 16 finished lines")
    assert Path("cut").read_bytes() == Path("whole").read_bytes()
    assert not hidden()


@pytest.mark.parametrize("mode", ["ar", "nar", "spec"])
@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupted_split_is_resumed_in_all_its_files(
    janus: Janus, stop: Stop, mode: str, number: signal.Signals
) -> None:
    def stopped() -> None:
        try:
            signal.raise_signal(number)
        finally:
            assert {signal.getsignal(each) for each in SIGNALS} == {signal.SIG_DFL}, "a second one ends the process"

    before = [signal.getsignal(each) for each in SIGNALS]
    _, out, _ = janus("--mode", mode, *SMALL)
    expected = published()
    (summary,) = KEPT.glob("*.json")
    like = json.loads(summary.read_bytes())
    shutil.rmtree(KEPT)
    stop(3, stopped)
    code, part, err = janus("--mode", mode, *SMALL, "--output", "mine")
    assert (code, part) == (128 + number, "")
    assert f"stopped by {number.name}; 12 finished lines are kept in " in err
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert janus(*resume_command(err))[:2] == (0, "")
    assert Path("mine").read_text() == out
    assert published() == expected
    about = json.loads(summary.read_bytes())
    for key in ("sentences", "tokens", "passes_mean", "sha256", "step", "options", "hypotheses", *READING):
        assert about[key] == like[key]
    assert (about["batches"], about["batch_latency_ms"]) == (None, None), "known of the last process only"
    assert like["batches"] == LINES / 2
    assert not hidden()


@pytest.mark.parametrize("form", ["", "--jsonl", "--nbest 2", "--nbest 3 --jsonl"])
def test_stdout_gets_every_line_of_a_resumed_split(janus: Janus, halted: Janus, form: str) -> None:
    _, out, _ = janus(*form.split(), *SMALL)
    code, part, err = halted(2, *form.split(), *SMALL)
    assert code == 130
    assert 0 < len(part) < len(out)
    assert out.startswith(part)
    assert janus(*resume_command(err))[:2] == (0, out)


def test_what_was_read_is_counted_over_all_processes(janus: Janus, halted: Janus) -> None:
    text = [" ".join(source()), "日本 語", *source()[:4], "собака"]
    Path("text").write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    rows = [row[:39] for row in load_tokenizers(Path("runs/janus")).source.encode(text)]
    read, unknown = sum(map(len, rows)), sum(row.count(UNK) for row in rows)
    _, _, err = halted(3, *BEGUN, "--batch-sentences", "1")
    assert "3 finished lines are kept" in err
    code, _, err = janus(*resume_command(err))
    assert (code, "resuming after 3 finished lines" in err) == (0, True)
    assert "text: 1 line cut to the 39 tokens that the model reads\n" in err
    assert f"text: {unknown} of {read} tokens ({unknown / read:.1%}) are unknown to the tokenizer" in err


def test_a_source_that_is_cut_is_counted_as_a_number(halted: Janus, monkeypatch: Patch) -> None:
    monkeypatch.setattr(Translator, "_counted", lambda *_: ())  # then it is the first that is counted
    Path("text").write_text(f"{' '.join(source())}\nba\n", encoding="utf-8")
    assert halted(1, *BEGUN, "--batch-sentences", "1")[0] == 130
    assert b'"cut": 1' in Path(".mine.partial").read_bytes()


def test_without_a_file_it_says_that_nothing_is_kept(janus: Janus, halted: Janus) -> None:
    code, out, err = halted(2, *SMALL, "--input", "text")
    assert (code, len(lines(out))) == (130, 8)
    assert "stopped by SIGINT after" in err
    assert "--out FILE" in err
    ends(janus(*SMALL, "--input", "text", "--resume"), 2, "needs --out")
    code, _, err = halted(0, *SMALL, "--input", "text", "--output", "mine")
    assert (code, hidden()) == (130, [])
    assert "before a line was kept; lost, because lines are kept in blocks of batches: 4 more" in err


def test_wherever_the_partial_file_is_cut_the_result_is_the_same(janus: Janus, halted: Janus) -> None:
    """Truncated anywhere, with bytes behind that nobody finished: resumed, or begun where no window is left."""
    _, out, _ = janus(*SMALL)
    expected = published()
    halted(4, *SMALL)
    kept = PARTIAL.read_bytes()
    windows = [match.end() for match in re.finditer(rb'\n{"done": .*\n', kept)]
    assert len(windows) == 4
    cuts = [(windows[1], b"half a li"), (windows[2] - 1, b""), (0, b""), (len(kept) - 9, b'{"done": 99')]
    for size, behind in cuts:  # and hundreds in tests/decoding/test_records.py
        PARTIAL.write_bytes(kept[:size] + behind)
        finished = 4 * sum(end <= size for end in windows)
        err = ends(janus(*SMALL, "--resume"), 0, out=out)
        assert (f"resuming after {finished} finished lines" in err) == bool(finished)
        assert published() == expected
        assert not hidden()


KILLED = """
import os, signal, sys
from pathlib import Path
from janus_cli.cli import main
from janus_cli.decoding import decode, records, translate

translate.WINDOW_BATCHES = 2
owner, name, times = {
    "window": (records.Records, "add", 4), "rename": (Path, "replace", 2), "end": (decode, "write_atomically", 1)
}[sys.argv[1]]
function, count = getattr(owner, name), [0]

def dying(*arguments):
    count[0] += 1
    if count[0] == times:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments)

setattr(owner, name, dying)
main(sys.argv[2:])
"""


@pytest.mark.parametrize(("where", "left"), [("window", 12), ("rename", LINES), ("end", LINES)])
def test_a_killed_decoding_is_resumed(janus: Janus, stop: Stop, where: str, left: int) -> None:
    _, out, _ = janus(*SMALL)
    expected = published()
    shutil.rmtree(KEPT)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, where, "decode", *SMALL, "--output", "mine"], capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (KEPT / "test.ar.beam3.json").exists()
    ends(janus(*SMALL, "--output", "mine"), 2, f"{left} finished lines")
    ends(janus(*SMALL, "--output", "mine", "--resume"), 0, f"resuming after {left} finished lines")
    assert (published(), Path("mine").read_text()) == (expected, out)
    assert json.loads((KEPT / "test.ar.beam3.json").read_bytes())["sentences"] == LINES
    assert not hidden()


def rewrite(text: str) -> Callable[[], object]:
    return partial(Path("text").write_text, text)


def spoil(old: bytes, new: bytes) -> Callable[[], object]:
    def replace() -> None:
        data = Path(".mine.partial").read_bytes()
        assert old in data
        Path(".mine.partial").write_bytes(data.replace(old, new, 1))

    return replace


@pytest.mark.parametrize(
    ("change", "arguments", "code", "words"),
    [
        (None, [*BEGUN], 2, "holds 8 finished lines of a decoding that was stopped"),
        (None, [*BEGUN, "--resume", "--force"], 2, "exclude each other"),
        (None, [*BEGUN, "--resume", "--beam", "2"], 2, "other options: beam 3, now 2"),
        (None, [*BEGUN, "--resume", "--mode", "nar"], 2, 'mode "ar", now "nar"'),
        (None, [*BEGUN, "--resume", "--jsonl"], 2, "jsonl false, now true"),
        (None, [*BEGUN, "--resume", "--set", "decoding.max_extra=3"], 2, "max_extra 2, now 3"),
        (None, [*BEGUN, "--resume", "--checkpoint", "step-000001"], 4, "weights of step-000002, those of step-000001"),
        (rewrite("another\n" * LINES), [*BEGUN, "--resume"], 3, "line 1 of the input is not the one"),
        (rewrite("ba\n"), [*BEGUN, "--resume"], 3, "line 1 of the input is not the one"),
        (rewrite(""), [*BEGUN, "--resume"], 3, "line 1 of the input is not the one"),
        (lambda: Path("mine").write_text("precious"), [*BEGUN, "--resume"], 2, "mine exists already"),
        (spoil(b'{"format": 3', b'{"format": 1'), [*BEGUN], 3, ".mine.partial is damaged"),
        (spoil(b'"format"', b""), [*BEGUN, "--resume"], 3, ".mine.partial is damaged"),
        (spoil(b'\n{"index"', b'\n"index"'), [*BEGUN, "--resume"], 3, ".mine.partial is damaged after record 0"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused_and_nothing_is_lost(
    janus: Janus, halted: Janus, whole: bytes, change: Callable[[], object] | None, arguments: list[str], code: int,
    words: str,
) -> None:  # fmt: skip
    assert halted(2, *BEGUN)[0] == 130
    if change is not None:
        change()
    before = Path(".mine.partial").read_bytes()
    ends(janus(*arguments), code, words, "hint:", out="")
    assert Path(".mine.partial").read_bytes() == before
    if Path("mine").exists():
        assert Path("mine").read_text() == "precious"
        Path("mine").unlink()
    rewrite("".join(f"{line}\n" for line in source()))()
    assert janus(*BEGUN, "--force" if "damaged" in words else "--resume")[0] == 0
    assert Path("mine").read_bytes() == whole
    assert not hidden()


def test_resume_begins_where_no_line_is_finished(janus: Janus, halted: Janus, whole: bytes) -> None:
    """So a job may always say --resume; and what its first call might replace, the next may, too."""
    assert janus(*BEGUN, "--resume")[0] == 0
    assert Path("mine").read_bytes() == whole
    assert halted(2, *BEGUN, "--force")[0] == 130
    header, *_ = Path(".mine.partial").read_bytes().split(b"\n")
    Path(".mine.partial").write_bytes(header + b"\n")  # as if it had been killed in the first window
    Path("mine").write_text("old")
    ends(janus(*BEGUN, "--resume"), 0, "nothing is finished yet")
    assert Path("mine").read_bytes() == whole
    assert not hidden()


def test_what_waits_with_other_options_is_not_passed_over(janus: Janus, halted: Janus) -> None:
    assert halted(2, *SMALL, "--out", "mine")[0] == 130
    waiting = PARTIAL.read_bytes()
    words = [*SMALL, "--beam", "2", "--resume", "--out"]
    ends(janus(*words, "mine"), 2, "mine with other options: beam 3, now 2", PARTIAL.name)
    assert janus(*words, "elsewhere/mine")[0] == 3, "no such folder"
    assert janus(*words, "other")[0] == 0
    assert PARTIAL.read_bytes() == waiting
    assert janus(*SMALL, "--resume", "--out", "mine")[0] == 0
    assert not hidden()


def test_force_starts_over_and_resuming_keeps_the_permission(janus: Janus, halted: Janus, whole: bytes) -> None:
    Path("mine").write_text("old", encoding="utf-8")
    err = ends(halted(2, *BEGUN, "--force"), 130)
    assert Path("mine").read_text(encoding="utf-8") == "old"
    assert janus(*resume_command(err))[0] == 0
    assert Path("mine").read_bytes() == whole
    Path("mine").unlink()
    assert halted(2, *BEGUN)[0] == 130
    code, _, err = janus(*BEGUN, "--force")
    assert (code, "resuming" in err, Path("mine").read_bytes() == whole) == (0, False, True)
    assert not hidden()


def test_smaller_batches_may_finish_what_larger_ones_could_not(
    janus: Janus, stop: Stop, whole: bytes, monkeypatch: Patch
) -> None:
    generate = Engine.__call__

    def full(self: Engine, source: torch.Tensor, *arguments: Any) -> Any:
        if len(source) > 1:
            torch.empty(1 << 50)  # a RuntimeError on a CPU
        return generate(self, source, *arguments)

    stop(2, lambda: monkeypatch.setattr(Engine, "__call__", full))
    err = ends(janus(*BEGUN), 6, "a batch of 2 sentences does not fit into memory", "12 finished lines are kept")
    assert resume_command(err)[-3:] == ["--batch-sentences", "1", "--resume"]
    assert janus(*resume_command(err))[0] == 0
    assert Path("mine").read_bytes() == whole


def test_of_two_decodings_with_one_output_the_second_is_refused(janus: Janus, stop: Stop) -> None:
    """Not those of one split: these have one partial file, and one process at a time writes it."""
    _, valid, _ = janus("--split", "valid")
    stop(1, lambda: janus("--split", "valid", "--out", "mine"))
    err = ends(janus("--out", "mine", *SMALL), 2, f"mine exists already; {LINES} finished lines are kept")
    assert Path("mine").read_text() == valid
    Path("mine").unlink()
    assert janus(*resume_command(err))[0] == 0
    assert len(lines(Path("mine").read_text(encoding="utf-8"))) == LINES
    assert not hidden()


def test_stdin_is_resumed_if_the_same_text_is_fed_again(janus: Janus, halted: Janus) -> None:
    text = Path("text").read_bytes()
    arguments = ["--input", "-", "--output", "mine", "--jsonl", *SMALL]
    janus(*arguments, stdin=text)
    whole = Path("mine").read_bytes()
    Path("mine").unlink()
    err = ends(halted(2, *arguments, stdin=text), 130, "with the same text on stdin")
    ends(janus(*resume_command(err), stdin=text[9:]), 3, "line 1 of the input is not the one")
    assert janus(*resume_command(err), stdin=text)[0] == 0
    assert Path("mine").read_bytes() == whole


def test_one_process_at_a_time(janus: Janus, halted: Janus) -> None:
    halted(2, *BEGUN)
    kept = Path(".mine.partial").read_bytes()
    with Path(".mine.partial").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for more in ("--resume", "--force"):
            ends(janus(*BEGUN, more), 7, "another process is writing mine")
    assert Path(".mine.partial").read_bytes() == kept
    assert janus(*BEGUN, "--resume")[0] == 0


@pytest.mark.parametrize("form", [[], ["--jsonl"]])
@pytest.mark.parametrize("limit", [100, 1100, 2500, 5000])
def test_a_full_disk_keeps_what_is_finished(janus: Janus, stop: Stop, form: list[str], limit: int) -> None:
    arguments = [*BEGUN, *form]
    janus(*arguments)
    whole = Path("mine").read_bytes()
    Path("mine").unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        code, _, err = janus(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    if code == 0:
        assert limit > 2000  # it fitted
    else:
        assert code == 1
        assert "error: .mine.partial: File too large" in err
        assert not Path("mine").exists()
        if Path(".mine.partial").exists():
            finished = re.search(r"(\d+) finished lines are kept in .mine.partial", err)
            assert finished
            ends(janus(*resume_command(err)), 0, f"resuming after {finished[1]} finished lines")
        else:
            assert limit < 1200  # not one window
            assert janus(*arguments)[0] == 0
    assert Path("mine").read_bytes() == whole
    assert not hidden()


def test_who_only_looks_at_the_first_lines_leaves_nothing_behind(janus: Janus, halted: Janus) -> None:
    def look(*more: str) -> None:
        command = [sys.executable, "-m", "janus_cli", "decode", "--batch-sentences", "1", *more]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            err = process.stderr.read().decode()
        assert ("error" in err, "Traceback" in err) == (False, False)

    look("--jsonl")
    assert not hidden()
    halted(2, *SMALL)
    before = PARTIAL.read_bytes()
    look("--resume")
    assert PARTIAL.read_bytes().startswith(before)  # hours of another process
    assert janus(*SMALL, "--resume")[0] == 0


def test_the_bar_knows_how_many_lines_there_are(janus: Janus, halted: Janus, monkeypatch: Patch) -> None:
    class Noted(console.progress):
        def __init__(self, what: str, total: int | None, *, start: int = 0) -> None:
            super().__init__(what, total, start=start)
            bars.append(self)

        def advance(self, count: int = 1, note: str | None = None) -> None:
            super().advance(count, note)
            steps.append(count)

    bars: list[Noted] = []
    steps: list[int] = []
    monkeypatch.setattr(console, "progress", Noted)
    halted(2, *BEGUN)
    janus(*BEGUN, "--resume")
    assert max(steps) == 2  # batches, not windows
    janus("--input", "-", stdin=b"one\n\n")
    janus()
    seen = [(bar.total, bar.first, bar.done) for bar in bars]
    assert seen == [(LINES, 0, 12), (LINES, 8, LINES), (None, 0, 2), (LINES, 0, LINES)]


READ = ["own_recipe", "fingerprint", "read_translator"]  # what `decode` reads of a checkpoint, in this order


@pytest.mark.parametrize("at", READ)
def test_a_signal_while_the_model_is_loaded(janus: Janus, monkeypatch: Patch, at: str) -> None:
    monkeypatch.setattr(decode, at, lambda *_: signal.raise_signal(signal.SIGTERM))
    code, out, err = janus("--output", "mine")
    assert (code, out, "stopped by SIGTERM" in err, hidden()) == (143, "", True, [])


@pytest.mark.parametrize("at", READ)
@pytest.mark.parametrize("name", ["last", "best", "step-000002"])
def test_a_checkpoint_that_a_training_prunes_meanwhile(janus: Janus, monkeypatch: Patch, name: str, at: str) -> None:
    first = janus("--input", "-", "--checkpoint", "step-000001", stdin=source()[0].encode())[1]
    checkpoint.move_link(CHECKPOINTS, "best", CHECKPOINTS / "step-000002")
    original = getattr(decode, at)

    def pruned(*arguments: Any) -> Any:
        monkeypatch.setattr(decode, at, original)
        shutil.copytree(CHECKPOINTS / "step-000001", CHECKPOINTS / "step-000003")
        for link in ("last", "best"):
            checkpoint.move_link(CHECKPOINTS, link, CHECKPOINTS / "step-000003")
        shutil.rmtree((CHECKPOINTS / "step-000002").rename(CHECKPOINTS / ".step-000002.gone"))
        return original(*arguments)

    monkeypatch.setattr(decode, at, pruned)
    code, out, err = janus("--input", "-", "--checkpoint", name, stdin=source()[0].encode())
    if name == "step-000002":
        assert (code, out, "there is no checkpoint step-000002" in err) == (4, "", True)
    else:
        assert (code, out, "was pruned meanwhile" in err) == (0, first, True)
        assert "checkpoint step-000003" in err


def test_resuming_takes_the_weights_that_it_was_begun_with(janus: Janus, halted: Janus) -> None:
    _, out, _ = janus(*SMALL)
    halted(2, *SMALL)
    for link in ("last", "best"):
        checkpoint.move_link(CHECKPOINTS, link, CHECKPOINTS / "step-000001")
    shutil.move(CHECKPOINTS / "step-000002", "elsewhere")
    ends(janus(*SMALL, "--resume"), 4, "started with the weights of step-000002, those of step-000001 are others")
    shutil.move("elsewhere", CHECKPOINTS / "step-000002")
    ends(janus(*SMALL, "--resume"), 0, "checkpoint step-000002", out=out)
    assert json.loads((KEPT / "test.ar.beam3.json").read_bytes())["step"] == 2


def test_a_checkpoint_that_is_pruned_after_it_was_read(janus: Janus, stop: Stop) -> None:
    _, out, _ = janus(*SMALL)
    about = json.loads((KEPT / "test.ar.beam3.json").read_bytes())
    stop(0, lambda: shutil.rmtree("runs/janus/checkpoints"))
    assert janus(*SMALL)[:2] == (0, out)
    again = json.loads((KEPT / "test.ar.beam3.json").read_bytes())
    assert (again["sha256"], again["step"]) == (about["sha256"], 2)


def test_output_called_gz_is_gzipped_and_resumed_to_the_same_bytes(janus: Janus, halted: Janus, whole: bytes) -> None:
    assert janus("--input", "text", "--out", "h.gz", *SMALL)[:2] == (0, "")
    assert gzip.decompress(Path("h.gz").read_bytes()) == whole
    assert janus("--input", "text", "--jsonl", "--out", "h.jsonl.GZ", *SMALL)[0] == 0
    records = gzip.decompress(Path("h.jsonl.GZ").read_bytes()).decode().removesuffix("\n").split("\n")
    assert [json.loads(record)["hypothesis"] for record in records] == lines(whole.decode())
    code, _, err = halted(1, "--input", "text", "--out", "other.gz", *SMALL)
    assert (code, Path("other.gz").exists()) == (130, False)
    assert janus(*resume_command(err))[0] == 0
    assert Path("other.gz").read_bytes() == Path("h.gz").read_bytes()
    assert Path("h.gz").read_bytes()[4:8] == bytes(4), "no time: the same bytes tomorrow"


def test_a_finished_decoding_is_already_complete(janus: Janus) -> None:
    words = ["--out", "mine.gz", "--nbest", "2", "--resume"]
    assert janus(*words, *SMALL)[0] == 0
    before = Path("mine.gz").read_bytes()
    err = ends(janus(*words), 0, "mine.gz is already complete", out="")
    assert "nothing is finished yet" not in err
    for more, message in [
        (["--checkpoint", "step-000002"], "with other options or weights: "),  # kept under another name
        (["--beam", "2"], "with other options or weights: "),
        (["--jsonl"], "with other lines than"),
    ]:
        err = ends(janus(*words, *more), 2, f"error: mine.gz is finished already, {message}")
        assert "nothing is finished yet" not in err
    (summary,) = KEPT.glob("*.json")
    about = summary.read_bytes()
    summary.write_bytes(about.replace(b'"beam": 3', b'"beam": 4'))
    ends(janus(*words), 2, "finished already, with beam 4, now 3")
    summary.write_bytes(about)
    checkpoint.move_link(CHECKPOINTS, "last", CHECKPOINTS / "step-000001")
    ends(janus(*words), 2, "finished already, with the weights of step-000002")
    assert Path("mine.gz").read_bytes() == before
    assert not hidden()


@pytest.mark.parametrize("first", [b"", b'{"source": "ba", "hypothesis": "di"}\n'])
def test_a_finished_decoding_of_another_text_is_refused(janus: Janus, first: bytes) -> None:
    assert janus("--out", "mine", "--resume")[0] == 0
    kept = KEPT / "test.ar.beam3.jsonl"
    _, _, others = kept.read_bytes().partition(b"\n")
    kept.write_bytes(first + others)
    ends(janus("--out", "mine", "--resume"), 2, "mine is finished already, with the hypotheses of another text")


@pytest.mark.parametrize("form", [[], ["--jsonl"], ["--nbest", "2"]])
def test_a_finished_text_is_complete_if_it_answers_each_line(janus: Janus, form: list[str]) -> None:
    assert janus(*BEGUN, *form)[0] == 0
    before = Path("mine").read_bytes()
    code, out, err = janus(*BEGUN, *form, "--resume")
    assert (code, out, "mine is already complete" in err) == (0, "", True), err
    assert "no record says with which weights and options" in err
    for text in (source()[:-1], [*source(), "ba"]):
        code, _, err = janus("--input", "-", "--out", "mine", *form, "--resume", stdin="\n".join(text).encode())
        assert (code, "error: mine is finished already, with the hypotheses of another text" in err) == (2, True), err
        assert "overwrite it with --force, or name another with --out" in err
    assert Path("mine").read_bytes() == before
