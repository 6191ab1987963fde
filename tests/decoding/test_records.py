"""A file of records cut anywhere is resumed to the same bytes."""

import random
from pathlib import Path

import pytest

from janus_cli.decoding.records import Progress, Record, Records, as_json
from janus_cli.errors import DataError

INPUT = [f"line {index} {'ä' * (index % 7)}\u2028\\n" for index in range(40)]
TEXT, JSONL = Path("out.txt"), Path("out.jsonl")


def opened(*, resume: bool) -> Records:
    files, weights = {TEXT: True, JSONL: False}, ("step-1", "0" * 64)
    records = Records(JSONL, files, weights, {"beam": 5}, command="janus x --resume", elsewhere="move")
    records.check(resume=resume, force=False)
    return records


def work(records: Records, windows: int = 99) -> None:
    """Decodes up to so many windows of three lines; makes the files if all are done."""
    with records.opened():
        lines = iter(INPUT)
        for _ in records.replay(lines):
            pass
        while (window := [line for _, line in zip(range(3), lines, strict=False)]) and windows:
            progress = Progress(records.progress.done + len(window), 7, 1, 0.5)
            records.add([{"source": line, "hypothesis": line[::-1]} for line in window], progress)
            windows -= 1
        if not windows:
            raise DataError("stopped")
        records.publish([text, as_json])


def text(record: Record) -> bytes:
    return f"{record['hypothesis']}\n".encode()


def test_300_truncations(empty_folder: Path) -> None:
    work(opened(resume=False))
    expected = TEXT.read_bytes(), JSONL.read_bytes()
    JSONL.unlink()
    with pytest.raises(DataError) as stopped:
        work(opened(resume=False), windows=12)
    assert stopped.value.message == "stopped; 36 finished lines are kept in .out.jsonl.partial"
    draw, (partial,) = random.Random(4), Path().glob(".*")
    kept = partial.read_bytes()
    for _ in range(300):
        size = draw.randrange(len(kept) + 1)
        behind = draw.choice([b"", b"{", b'{"done": 36, "tok', b"\n\n", b"half\n"]) if b"\n" in kept[:size] else b""
        partial.write_bytes(kept[:size] + behind)
        done = 3 * partial.read_bytes().count(b'"published": false}\n')
        records = opened(resume=done > 0)
        assert (records.resumed, records.progress.done) == (done > 0, done)
        work(records)
        assert (TEXT.read_bytes(), JSONL.read_bytes()) == expected
        assert list(Path().glob(".*")) == []
        JSONL.unlink()
