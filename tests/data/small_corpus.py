"""A corpus of a few lines, and recipes for it; files, gzipped or not."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from janus_cli.core.knobs import Model
from janus_cli.data.prepare import prepare
from janus_cli.data.prepared import Prepared, open_prepared
from janus_cli.recipe import Data, Recipe, Tokenizer

CORPUS, OUT = Path("corpus"), Path("out")


def text(count: int, start: int = 0) -> tuple[list[str], list[str]]:
    """Aligned lines of 4 and 5 words."""
    numbers = range(start, start + count)
    return [f"der Mann {n} läuft" for n in numbers], [f"the man {n} runs fast" for n in numbers]


def put(folder: Path, split: str, *sides: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    for suffix, lines in zip(("de", "en"), sides, strict=False):
        (folder / f"{split}.{suffix}").write_bytes("".join(f"{line}\n" for line in lines).encode())


def put_file(path: Path, data: str | bytes) -> Path:
    """A file, gzipped if its name ends in .gz in whatever case."""
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if path.suffix.lower() == ".gz" else data)
    return path


def recipe_for(folder: Path | None = CORPUS, *, data: dict[str, Any] | None = None, **tokenizer: Any) -> Recipe:
    about = Data(source="de", target="en", dir=str(folder) if folder else None, **(data or {}))
    knobs = Tokenizer(**{"kind": "words", "vocabulary": 500, **tokenizer})
    return Recipe(name="tiny", data=about, tokenizer=knobs, model=Model(tie="target"))


def made(recipe: Recipe, out: Path = OUT, **options: Any) -> Prepared:
    prepare(recipe, out, **{"workers": 1, **options})
    return open_prepared(recipe, out)
