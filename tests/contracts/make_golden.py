"""Writes golden/*.json, with which the tests here compare what janus does.

    python tests/contracts/make_golden.py            all of them
    python tests/contracts/make_golden.py texts      these

Run it by hand, on purpose: what it changes is what a user will see changed, and the commit says why. It takes about
half a minute on one core; `git diff tests/contracts/golden` then shows every change.

options   flags, choices and arguments of every verb       draws     order of batches, noise, plans of every objective
recipes   every knob's default, and what recipes set       files     names of files, keys of JSON files
formats   tensors of checkpoints                           begin     first weights (sums), first losses
texts     what every objective decodes in every mode       prepared  counts, ids and texts of odd text
scores    every metric
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))  # the janus beside these tests, whatever is installed

import torch
import workplace


def make(names: list[str]) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root, tiny, odd = (Path(temporary) / name for name in ("still", "tiny", "odd"))
        for folder in (root, tiny, odd):
            folder.mkdir()
        workplace.build(root)
        workplace.build_tiny(tiny)
        makers = {
            "options": workplace.options,
            "recipes": workplace.recipes,
            "files": lambda: workplace.files(tiny),
            "formats": lambda: workplace.formats(root, tiny),
            "begin": lambda: workplace.beginnings(root),
            "texts": lambda: {run: {way: workplace.text(root, run, way) for way in workplace.WAYS[run]}
                              for run in workplace.WAYS},
            "draws": lambda: workplace.draws(root),
            "prepared": lambda: workplace.prepared(odd),
            "scores": lambda: workplace.scored(odd),
        }  # fmt: skip
        for name in names or makers:
            write(workplace.GOLDEN / f"{name}.json", makers[name]())


def write(path: Path, found: Any) -> None:
    """As JSON, innermost lists and mappings on one line each if they are short."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{pretty(found, 0)}\n", encoding="utf-8")


def pretty(value: Any, depth: int) -> str:
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or len(flat) + depth < 118:
        return flat
    inner = depth + 1
    if isinstance(value, dict):
        parts = [f"{json.dumps(key, ensure_ascii=False)}: {pretty(each, inner)}" for key, each in value.items()]
    else:
        parts = [pretty(each, inner) for each in value]
    before, after = "{}" if isinstance(value, dict) else "[]"
    body = f",\n{' ' * inner}".join(parts)
    return f"{before}\n{' ' * inner}{body}\n{' ' * depth}{after}"


if __name__ == "__main__":
    make(sys.argv[1:])
