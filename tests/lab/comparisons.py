"""What a comparison in this folder found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Compare = Callable[..., tuple[int, str, str]]
QUICK = ("compare", "--recipe", "tiny.yaml", "--threads", "1", "--device", "cpu", "--no-speed")


def found(folder: str = "runs/compare-tiny") -> dict[str, Any]:
    """comparison.json."""
    results = json.loads(Path(folder, "comparison.json").read_bytes())
    assert isinstance(results, dict)
    return results


def names(results: dict[str, Any]) -> list[str]:
    """The rows."""
    return [f"{row['system']} {row['label']}" for row in results["rows"]]


def outputs(folder: str = "runs/compare-tiny") -> dict[str, int]:
    """When each output was written."""
    return {file.name: file.stat().st_mtime_ns for file in Path(folder, "outputs").iterdir()}
