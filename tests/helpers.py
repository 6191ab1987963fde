"""What tests of many areas share: `janus` as a function, the words of its command line, its JSON files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import typer

from janus_cli.cli import app

Result = tuple[int, str, str]  # exit code, stdout, stderr
Janus = Callable[..., Result]
Silent = Callable[..., tuple[int, str]]
Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]


def sets(*changes: str) -> list[str]:
    """The options that change these knobs."""
    return [word for change in changes for word in ("--set", change)]


def parsed(verb: str, *words: str) -> dict[str, Any]:
    """The parameters that a command reads from these words; it is not run."""
    group = typer.main.get_command(app)
    return group.get_command(typer.Context(group), verb).make_context(verb, list(words)).params


def ends(result: tuple[int, str] | Result, code: int, *words: str, out: str | None = None) -> str:
    """Checks with which exit code a command ended, what its stderr says, and all of its stdout; returns the stderr.

    `ends(janus("--beam", "0"), 2, "--beam", out="")`
    """
    found, *printed, said = result
    assert found == code, f"exit code {found}, expected {code}: {said}"
    for each in words:
        assert each in said, f"nothing says {each!r}: {said}"
    assert out is None or printed == [out], f"stdout is {printed}, expected {out!r}: {said}"
    return said


def silent(janus: Janus, *first: str) -> Silent:
    """`janus` with these words first; checks that it prints nothing: (exit code, stderr)."""

    def run(*arguments: str) -> tuple[int, str]:
        code, out, err = janus(*first, *arguments)
        assert out == ""
        return code, err

    return run


def printed(result: Result) -> str:
    """The stdout of a command that must have succeeded."""
    code, out, err = result
    assert code == 0, err
    return out


def read_json(path: Path | str) -> Any:
    return json.loads(Path(path).read_bytes())


def edit_json(path: Path | str, **values: Any) -> None:
    """Gives keys of the object in a JSON file other values."""
    Path(path).write_text(json.dumps({**read_json(path), **values}), encoding="utf-8")


def write_lines(path: Path | str, lines: Iterable[object]) -> None:
    """A text with these lines."""
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
