"""What tests of many areas share: the type of `janus` as a function, words of its command line, its JSON files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Result = tuple[int, str, str]  # exit code, stdout, stderr
Janus = Callable[..., Result]


def sets(*changes: str) -> list[str]:
    """The options that change these knobs."""
    return [word for change in changes for word in ("--set", change)]


def read_json(path: Path | str) -> Any:
    return json.loads(Path(path).read_bytes())


def edit_json(path: Path | str, **values: Any) -> None:
    """Gives keys of the object in a JSON file other values."""
    Path(path).write_text(json.dumps({**read_json(path), **values}), encoding="utf-8")
