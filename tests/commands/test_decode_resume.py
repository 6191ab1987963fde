"""`janus decode` stopped half-way, by whatever it may be, and gone on with: not a line is lost, not a byte differs."""

import errno
import fcntl
import io
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from untrained import LINES, Janus, lines, source

from janus_cli import console
from janus_cli.decoding import session, translator, where
from janus_cli.decoding.session import Request, run_decoding
from janus_cli.decoding.translator import Result, Translator
from janus_cli.training import checkpoint

Stop = Callable[[int, Callable[[], object]], None]
MODES = [("--mode", "ar"), ("--mode", "nar")]
WINDOW = 4
SMALL = ("--batch-sentences", "2")  # windows of four lines, see `stop`


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch, janus: Janus) -> Stop:
    """Makes the next decoding call something after so many windows; writes the file `text`."""
    monkeypatch.setattr(translator, "WINDOW_BATCHES", 2)
    Path("text").write_text("".join(f"{line}\n" for line in source()), encoding="utf-8")
    all_windows = Translator.windows

    def after(count: int, call: Callable[[], object]) -> None:
        def windows(self: Translator, rest: Iterator[str], first: int = 0) -> Iterator[list[Result]]:
            for number, window in enumerate(all_windows(self, rest, first)):
                if number == count:
                    monkeypatch.setattr(Translator, "windows", all_windows)
                    call()
                yield window

        monkeypatch.setattr(Translator, "windows", windows)

    return after


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def command(err: str) -> list[str]:
    """The arguments of the command that the hint names."""
    found = re.search(r"go on with: janus decode (.*?)( \(with the same text on stdin\))?$", err, re.MULTILINE)
    assert found
    return shlex.split(found[1])


def hidden() -> list[str]:
    return sorted(file.name for file in Path().rglob(".*") if file.is_file())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "form", [(), ("--jsonl",), ("--nbest", "2", "--trace-lines", "6", "--jsonl"), ("--nbest", "2")]
)
def test_an_interrupted_file_goes_on_to_the_same_bytes(
    janus: Janus, stop: Stop, mode: tuple[str, ...], form: tuple[str, ...]
) -> None:  # fmt: skip
    arguments = [*mode, *form, *SMALL, "--input", "text", "--output"]
    assert janus(*arguments, "whole")[0] == 0
    stop(2, ctrl_c)
    code, out, err = janus(*arguments, "cut")
    assert (code, out) == (130, "")
    assert "stopped by SIGINT; 8 finished lines are kept in .cut.partial" in err
    assert not Path("cut").exists()
    assert Path("whole").read_bytes().startswith(Path(".cut.partial").read_bytes())
    assert Path(".cut.partial").stat().st_size
    for _ in range(2):
        stop(1, ctrl_c)
        code, _, err = janus(*command(err))
        assert code == 130
    assert "16 finished lines" in err
    code, _, err = janus(*command(err))
    assert code == 0
    assert "going on after 16 finished lines" in err
    assert Path("cut").read_bytes() == Path("whole").read_bytes()
    assert not hidden()


@pytest.mark.parametrize("mode", [*MODES, ("--mode", "spec")])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)], ids=str
)
def test_an_interrupted_split_goes_on_in_all_its_files_and_on_stdout(
    janus: Janus, stop: Stop, mode: tuple[str, ...], number: signal.Signals, code: int
) -> None:  # fmt: skip
    before = signal.getsignal(number)
    _, out, _ = janus(*mode, *SMALL)
    kept = Path("runs/janus/decode")
    expected = {file.name: file.read_bytes() for file in kept.iterdir()}
    shutil.rmtree(kept)
    stop(3, lambda: signal.raise_signal(number))
    got, part, err = janus(*mode, *SMALL, "--output", "mine")
    assert (got, part) == (code, "")
    assert f"stopped by {number.name}; 12 finished lines are kept in " in err
    assert signal.getsignal(number) is before
    got, rest, err = janus(*command(err))
    assert (got, rest) == (0, "")
    assert Path("mine").read_text() == out
    for name, data in expected.items():
        if name.endswith(".json"):
            about, like = json.loads((kept / name).read_bytes()), json.loads(data)
            for key in ("sentences", "tokens", "passes_mean", "sha256", "step", "options", "hypotheses"):
                assert about[key] == like[key]
            assert (about["batches"], about["batch_latency_ms"]) == (None, None), "known of the last process only"
            assert like["batches"] == LINES / 2
        else:
            assert (kept / name).read_bytes() == data, name
    assert not hidden()


@pytest.mark.parametrize("form", [(), ("--jsonl",), ("--nbest", "2"), ("--nbest", "3", "--jsonl")])
def test_stdout_gets_every_line_of_a_split_that_is_gone_on_with(
    janus: Janus, stop: Stop, form: tuple[str, ...]
) -> None:  # fmt: skip
    _, out, _ = janus(*form, *SMALL)
    stop(2, ctrl_c)
    code, part, err = janus(*form, *SMALL)
    assert code == 130
    assert 0 < len(part) < len(out)
    assert out.startswith(part)
    assert janus(*command(err))[:2] == (0, out)


def test_without_a_file_it_says_that_nothing_is_kept(janus: Janus, stop: Stop) -> None:
    stop(2, ctrl_c)
    code, out, err = janus(*SMALL, "--input", "text")
    assert (code, len(lines(out))) == (130, 8)
    assert "stopped by SIGINT after" in err
    assert "--output FILE" in err
    code, _, err = janus(*SMALL, "--input", "text", "--resume")
    assert (code, "what goes to stdout is not kept" in err) == (2, True)
    stop(0, ctrl_c)
    code, _, err = janus(*SMALL, "--input", "text", "--output", "mine")
    assert (code, "before a line was finished" in err, hidden()) == (130, True, [])


def _append(name: str, data: bytes) -> None:
    with Path(name).open("ab") as file:
        file.write(data)


def _shorten(name: str, size: int) -> None:
    os.truncate(name, Path(name).stat().st_size - size)


TEXT, RECORDS = (f"runs/janus/decode/.test.ar.beam3.{suffix}.partial" for suffix in ("txt", "jsonl"))
JOURNAL = "runs/janus/decode/.test.ar.beam3.txt.journal"


@pytest.mark.parametrize(
    ("spoil", "left"),
    [
        (lambda: _append(TEXT, b"half a li"), 12),
        (lambda: _append(RECORDS, b'{"index": 12, "source": "whole"}\n{"ind'), 12),
        (lambda: _append(JOURNAL, b'[16,"0011'), 12),
        (lambda: _append(JOURNAL, b'[16,"0011\n'), 12),  # a full disk took the rest, then there was room again
        (lambda: _shorten(TEXT, 1), 8),
        (lambda: _shorten(RECORDS, 1), 8),
        (lambda: os.truncate(TEXT, 0), None),
        (lambda: _shorten(JOURNAL, 1), 8),
        (lambda: (_shorten(JOURNAL, 1), _shorten(TEXT, Path(TEXT).stat().st_size // 2)), 4),
    ],
)
def test_files_that_were_cut_at_different_places_go_on_from_the_last_one_that_all_reach(
    janus: Janus, stop: Stop, spoil: Callable[[], object], left: int | None
) -> None:  # fmt: skip
    janus(*SMALL)
    expected = [Path(f"runs/janus/decode/test.ar.beam3.{suffix}").read_bytes() for suffix in ("txt", "jsonl")]
    stop(3, ctrl_c)
    janus(*SMALL)
    spoil()
    code, out, err = janus(*SMALL, "--resume")
    if left is None:
        assert (code, "is gone or damaged" in err, out) == (3, True, "")
        assert janus(*SMALL, "--force")[0] == 0
    else:
        assert (code, f"going on after {left} finished lines" in err) == (0, True)
        assert out.encode() == expected[0]
    assert [Path(f"runs/janus/decode/test.ar.beam3.{suffix}").read_bytes() for suffix in ("txt", "jsonl")] == expected
    assert not hidden()


KILLED = """
import os, signal, sys
from pathlib import Path
from janus_cli.cli import main
from janus_cli.decoding import journal, translator, unfinished

translator.WINDOW_BATCHES = 2
where, count = sys.argv[1], [0]

def dying(function, times):
    def call(*arguments):
        count[0] += 1
        if count[0] == times:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return call

if where == "window":
    journal.Journal.add = dying(journal.Journal.add, 4)
elif where == "rename":
    Path.replace = dying(Path.replace, 2)
else:
    unfinished.sync = dying(unfinished.sync, 1)
main(sys.argv[2:])
"""


@pytest.mark.parametrize(("where", "left"), [("window", 12), ("rename", LINES), ("summary", LINES)])
def test_a_killed_decoding_goes_on(janus: Janus, stop: Stop, where: str, left: int) -> None:
    _, out, _ = janus(*SMALL)
    kept = Path("runs/janus/decode")
    expected = {suffix: (kept / f"test.ar.beam3.{suffix}").read_bytes() for suffix in ("txt", "jsonl")}
    shutil.rmtree(kept)
    command = [sys.executable, "-c", KILLED, where, "decode", *SMALL]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (kept / "test.ar.beam3.json").exists()
    code, _, err = janus(*SMALL)
    assert (code, f"{left} finished lines" in err) == (2, True)
    code, again, err = janus(*SMALL, "--resume")
    assert (code, again, f"going on after {left} finished lines" in err) == (0, out, True)
    assert {suffix: (kept / f"test.ar.beam3.{suffix}").read_bytes() for suffix in ("txt", "jsonl")} == expected
    assert json.loads((kept / "test.ar.beam3.json").read_bytes())["sentences"] == LINES
    assert not hidden()


BEGUN = ("--input", "text", "--output", "mine", *SMALL)


@pytest.mark.parametrize(
    ("spoil", "arguments", "code", "words"),
    [
        (None, [*BEGUN], 2, "holds 8 finished lines of a decoding that was stopped"),
        (None, [*BEGUN, "--resume", "--force"], 2, "exclude each other"),
        (None, [*BEGUN, "--resume", "--beam", "2"], 2, "other options: beam 3, now 2"),
        (None, [*BEGUN, "--resume", "--mode", "nar"], 2, 'mode "ar", now "nar"'),
        (None, [*BEGUN, "--resume", "--jsonl"], 2, "jsonl false, now true"),
        (None, [*BEGUN, "--resume", "--set", "decoding.max_extra=3"], 2, "max_extra 2, now 3"),
        (None, [*BEGUN, "--resume", "--checkpoint", "step-000001"], 4, "weights of step-000002, those of step-000001"),
        (None, ["--input", "text", "--output", "other", "--resume"], 2, "no finished line is kept in .other.partial"),
        (None, ["--split", "valid", "--resume"], 2, "kept in runs/janus/decode/.valid.ar.beam3.txt.partial"),
        (lambda: Path("text").write_text("another\n" * LINES), [*BEGUN, "--resume"], 3, "does not begin with the 8"),
        (lambda: Path("text").write_text(f"{source()[0]}\n"), [*BEGUN, "--resume"], 3, "does not begin with the 8"),
        (lambda: Path("text").write_text(""), [*BEGUN, "--resume"], 3, "does not begin with the 8"),
        (lambda: Path("mine").write_text("precious"), [*BEGUN, "--resume"], 2, "mine is there already"),
        (lambda: Path(".mine.partial").rename("moved"), [*BEGUN, "--resume"], 3, ".mine.partial is gone or damaged"),
        (lambda: Path(".mine.journal").rename("moved"), [*BEGUN], 2, "left of another decoding"),
        (lambda: Path(".mine.journal").write_text("{}\n[]\n"), [*BEGUN], 3, ".mine.journal is damaged"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused_and_nothing_is_lost(
    janus: Janus, stop: Stop, spoil: Callable[[], object] | None, arguments: list[str], code: int, words: str
) -> None:  # fmt: skip
    janus(*BEGUN)
    whole = Path("mine").read_bytes()
    Path("mine").unlink()
    stop(2, ctrl_c)
    assert janus(*BEGUN)[0] == 130
    before = {name: Path(name).read_bytes() for name in (".mine.partial", ".mine.journal")}
    text = Path("text").read_bytes()
    if spoil is not None:
        spoil()
    got, out, err = janus(*arguments)
    assert (got, out) == (code, "")
    assert words in err
    assert "hint:" in err
    for name, data in before.items():
        Path("moved").rename(name) if not Path(name).exists() else None
        if words != ".mine.journal is damaged":
            assert Path(name).read_bytes() == data
    Path("text").write_bytes(text)
    if Path("mine").exists():
        assert Path("mine").read_text() == "precious"
        Path("mine").unlink()
    again = "--force" if "journal is damaged" in words else "--resume"
    assert janus(*BEGUN, again)[0] == 0
    assert Path("mine").read_bytes() == whole
    assert not hidden()


def test_force_starts_over_and_going_on_keeps_the_permission(janus: Janus, stop: Stop) -> None:
    Path("mine").write_text("old", encoding="utf-8")
    stop(2, ctrl_c)
    code, _, err = janus(*BEGUN, "--force")
    assert code == 130
    assert Path("mine").read_text(encoding="utf-8") == "old"
    assert janus(*command(err))[0] == 0
    whole = Path("mine").read_bytes()
    assert whole != b"old"
    Path("mine").unlink()
    stop(2, ctrl_c)
    assert janus(*BEGUN)[0] == 130
    code, _, err = janus(*BEGUN, "--force")
    assert (code, "going on" in err, Path("mine").read_bytes() == whole) == (0, False, True)
    assert not hidden()


def test_a_file_that_came_into_being_meanwhile_is_not_replaced(janus: Janus, stop: Stop) -> None:
    stop(4, lambda: Path("mine").write_text("precious", encoding="utf-8"))
    code, _, err = janus(*BEGUN)
    assert (code, "mine is there already; 20 finished lines are kept" in err) == (2, True)
    assert Path("mine").read_text(encoding="utf-8") == "precious"
    Path("mine").unlink()
    assert janus(*command(err))[0] == 0
    assert len(lines(Path("mine").read_text(encoding="utf-8"))) == LINES


def test_smaller_batches_may_finish_what_larger_ones_could_not(
    janus: Janus, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    janus(*BEGUN)
    whole = Path("mine").read_bytes()
    Path("mine").unlink()

    plain = translator.generate

    def full(model: Any, source: torch.Tensor, *arguments: Any) -> object:
        if len(source) > 1:
            torch.empty(1 << 50)  # a RuntimeError on a CPU
        return plain(model, source, *arguments)

    stop(2, lambda: monkeypatch.setattr(translator, "generate", full))
    code, _, err = janus(*BEGUN)
    assert (code, "a batch of 2 sentences does not fit into memory" in err) == (6, True)
    assert "12 finished lines are kept" in err
    assert command(err)[-3:] == ["--batch-sentences", "1", "--resume"]
    assert janus(*command(err))[0] == 0
    assert Path("mine").read_bytes() == whole


@pytest.mark.parametrize("form", [("--input", "text"), ()])
def test_what_was_stopped_when_all_files_had_their_names_is_finished(
    janus: Janus, stop: Stop, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:  # fmt: skip
    """A full disk, a signal or a kill after the last rename."""
    arguments = [*form, "--output", "mine", *SMALL]
    janus(*arguments)
    whole = Path("mine").read_bytes()
    Path("mine").unlink()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "summary")

    with monkeypatch.context() as patch:
        patch.setattr(session.summary, "measured", full)
        code, _, err = janus(*arguments)
    kept = "mine" if form else "runs/janus/decode/test.ar.beam3.txt"
    assert (code, f"{LINES} finished lines are kept in {kept}" in err) == (1, True)
    assert janus(*command(err))[0] == 0
    assert Path("mine").read_bytes() == whole
    assert not hidden()


def test_two_splits_do_not_write_one_file_at_once(janus: Janus) -> None:
    with Path(".mine.partial").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, _, err = janus("--output", "mine")
        assert (code, "another process is writing .mine.partial" in err) == (7, True)
        file.write(b"theirs")
        assert os.fstat(file.fileno()).st_nlink == 1
    Path(".mine.partial").unlink()
    assert not hidden()
    assert janus("--output", "mine")[0] == 0
    assert len(lines(Path("mine").read_text(encoding="utf-8"))) == LINES


def test_stdin_goes_on_if_the_same_text_is_fed_again(janus: Janus, stop: Stop) -> None:
    text = Path("text").read_bytes()
    arguments = ["--input", "-", "--output", "mine", "--jsonl", *SMALL]
    janus(*arguments, stdin=text)
    whole = Path("mine").read_bytes()
    Path("mine").unlink()
    stop(2, ctrl_c)
    code, _, err = janus(*arguments, stdin=text)
    assert (code, "with the same text on stdin" in err) == (130, True)
    code, _, other = janus(*command(err), stdin=text[9:])
    assert (code, "does not begin with" in other) == (3, True)
    assert janus(*command(err), stdin=text)[0] == 0
    assert Path("mine").read_bytes() == whole


def test_one_process_at_a_time(janus: Janus, stop: Stop) -> None:
    stop(2, ctrl_c)
    janus(*BEGUN)
    with Path(".mine.journal").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for more in ("--resume", "--force"):
            code, _, err = janus(*BEGUN, more)
            assert (code, "another process is writing mine" in err) == (7, True)
    assert janus(*BEGUN, "--resume")[0] == 0


@pytest.mark.parametrize(
    ("form", "limit", "what"),
    [
        ([], 100, "journal"),
        ([], None, "journal"),  # room for two windows and a half
        (["--jsonl"], 1100, "partial"),
        (["--jsonl"], 2500, "partial"),
        (["--jsonl"], 5000, "partial"),
    ],
)
def test_a_full_disk_keeps_what_is_finished(
    janus: Janus, stop: Stop, form: list[str], limit: int | None, what: str
) -> None:  # fmt: skip
    arguments = [*BEGUN, *form]
    if limit is None:
        stop(2, ctrl_c)
        janus(*arguments)
        limit = Path(".mine.journal").stat().st_size + 20
        Path(".mine.journal").unlink()
        Path(".mine.partial").unlink()
    janus(*arguments)
    whole = Path("mine").read_bytes()
    Path("mine").unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        code, _, err = janus(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    assert f"error: .mine.{what}: File too large" in err
    assert not Path("mine").exists()
    if Path(".mine.journal").exists():
        finished = re.search(r"(\d+) finished lines are kept in .mine.partial", err)
        assert finished
        assert Path(".mine.partial").read_bytes().count(b"\n") == int(finished[1])
        code, _, err = janus(*command(err))
        assert (code, f"going on after {finished[1]} finished lines" in err) == (0, True)
    else:
        assert limit < 1200  # not one window
        assert janus(*arguments)[0] == 0
    assert Path("mine").read_bytes() == whole
    assert not hidden()


def test_who_only_looks_at_the_first_lines_leaves_nothing_behind(
    janus: Janus, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    class Closed(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def look(**more: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", io.TextIOWrapper(Closed(), write_through=True))
            patch.setattr(sys.stdout, "close", lambda: None, raising=False)
            with pytest.raises(BrokenPipeError):
                run_decoding(Request(given={"batch_sentences": 2}, device="cpu", **more))

    look()
    assert not hidden()
    stop(2, ctrl_c)
    janus(*SMALL)
    before = hidden()
    look(resume=True)
    assert hidden() == before  # hours of another process
    assert janus(*SMALL, "--resume")[0] == 0


def home(of: str) -> Any:
    """The module through which `janus decode` calls a function."""
    return where if of in ("load_model", "load_tokenizers") else session


@pytest.mark.parametrize("at", ["load_model", "load_tokenizers", "own_recipe"])
def test_a_signal_while_the_model_is_loaded(
    janus: Janus, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:  # fmt: skip
    monkeypatch.setattr(home(at), at, lambda *_: signal.raise_signal(signal.SIGTERM))
    code, out, err = janus("--output", "mine")
    assert (code, out, "stopped by SIGTERM" in err, hidden()) == (143, "", True, [])


def test_the_bar_knows_how_many_lines_there_are(
    janus: Janus, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    class Noted(console.progress):
        def __init__(self, what: str, total: int | None, *, start: int = 0) -> None:
            super().__init__(what, total, start=start)
            self.steps: list[int] = []
            bars.append(self)

        def advance(self, count: int = 1, note: str | None = None) -> None:
            super().advance(count, note)
            self.steps.append(count)

    bars: list[Noted] = []

    monkeypatch.setattr(console, "progress", Noted)
    stop(2, ctrl_c)
    janus(*BEGUN)
    janus(*BEGUN, "--resume")
    janus("--input", "-", stdin=b"one\n\n")
    janus()
    assert [(bar.total, bar.first, bar.done) for bar in bars] == [
        (LINES, 0, 12), (LINES, 8, LINES), (None, 0, 2), (LINES, 0, LINES)
    ]  # fmt: skip
    assert max(bars[0].steps + bars[1].steps) == 2  # batches, not windows


@pytest.mark.parametrize("at", ["own_recipe", "fingerprint", "load_model", "load_tokenizers"])
@pytest.mark.parametrize("name", ["last", "best", "step-000002"])
def test_a_checkpoint_that_a_training_prunes_meanwhile(
    janus: Janus, monkeypatch: pytest.MonkeyPatch, name: str, at: str
) -> None:  # fmt: skip
    root = Path("runs/janus/checkpoints")
    first = janus("--input", "-", "--checkpoint", "step-000001", stdin=source()[0].encode())[1]
    checkpoint.point(root, "best", root / "step-000002")
    original = getattr(home(at), at)

    def pruned(*arguments: Any) -> Any:
        monkeypatch.setattr(home(at), at, original)
        shutil.copytree(root / "step-000001", root / "step-000003")
        for link in ("last", "best"):
            checkpoint.point(root, link, root / "step-000003")
        shutil.rmtree((root / "step-000002").rename(root / ".step-000002.gone"))
        return original(*arguments)

    monkeypatch.setattr(home(at), at, pruned)
    code, out, err = janus("--input", "-", "--checkpoint", name, stdin=source()[0].encode())
    if name == "step-000002":
        assert (code, out, "there is no checkpoint step-000002" in err) == (4, "", True)
    else:
        assert (code, out, "was pruned meanwhile" in err) == (0, first, True)
        assert "checkpoint step-000003" in err


def test_going_on_takes_the_weights_that_it_was_begun_with(janus: Janus, stop: Stop) -> None:
    root = Path("runs/janus/checkpoints")
    _, out, _ = janus(*SMALL)
    stop(2, ctrl_c)
    janus(*SMALL)
    checkpoint.point(root, "best", root / "step-000001")
    code, again, err = janus(*SMALL, "--resume")
    assert (code, again) == (0, out)
    assert "checkpoint step-000002" in err
    assert json.loads(Path("runs/janus/decode/test.ar.beam3.json").read_bytes())["step"] == 2


def test_weights_that_are_gone_are_not_replaced_by_others(janus: Janus, stop: Stop) -> None:
    root = Path("runs/janus/checkpoints")
    stop(2, ctrl_c)
    janus(*SMALL)
    for link in ("last", "best"):
        checkpoint.point(root, link, root / "step-000001")
    shutil.rmtree(root / "step-000002")
    code, _, err = janus(*SMALL, "--resume")
    assert (code, "begun with the weights of step-000002, those of step-000001 are others" in err) == (4, True)


def test_a_checkpoint_that_is_pruned_after_it_was_read(janus: Janus, stop: Stop) -> None:
    _, out, _ = janus(*SMALL)
    about = json.loads(Path("runs/janus/decode/test.ar.beam3.json").read_bytes())
    stop(0, lambda: shutil.rmtree("runs/janus/checkpoints"))
    assert janus(*SMALL)[:2] == (0, out)
    again = json.loads(Path("runs/janus/decode/test.ar.beam3.json").read_bytes())
    assert (again["sha256"], again["step"]) == (about["sha256"], 2)


def test_a_folder_that_keeps_failing_is_read_once(janus: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def read(run: object, folder: Path) -> None:
        calls.append(folder)
        raise checkpoint.CheckpointError("damaged")

    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        where.read_checkpoint(None, None, read)
    assert len(calls) == 1
