"""Fetching a recipe's text: resumable, and checked against sha256."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from janus_cli import __version__, console
from janus_cli.data.corpus import SIDES, SPLITS, file_name, table_names
from janus_cli.data.lines import BLOCK
from janus_cli.errors import DataError
from janus_cli.files import Busy, held, sha256
from janus_cli.recipe import Data, Download

TIMEOUT = 30.0  # seconds without a byte


def fetch(data: Data, cache: Path) -> Path:
    """Fetches files that the folder `cache` lacks, and returns the folder.

    A file gets its name only once its sha256 is right; until then it is NAME.part, which the next call continues.
    Raises DataError, with what to do by hand, if that fails.
    """
    must_be_fetchable(data)
    cache.mkdir(parents=True, exist_ok=True)
    try:
        for item in data.downloads:
            path = cache / item.save_as
            if not path.is_file() or sha256(path) != item.sha256:
                _download(item, path)
    except DataError as problem:
        raise DataError(problem.message, _by_hand(data)) from None
    return cache


def must_be_fetchable(data: Data) -> None:
    """Raises DataError unless there are files to fetch, all with a known sha256."""
    if not data.downloads or not all(item.sha256 for item in data.downloads):
        raise DataError("this recipe's text has to be fetched by hand", _by_hand(data))


def _by_hand(data: Data) -> str:
    """What the user can do instead."""
    steps = [*data.notes.strip().split("\n"), *(f"fetch {item.url} as {item.save_as}" for item in data.downloads)]
    in_tables = bool(data.downloads) and all(item.save_as in table_names(data) for item in data.downloads)
    texts = ", ".join(file_name(data, split, side) for split in SPLITS for side in SIDES)
    files = "these files" if in_tables else f"{texts} (or .gz)"
    steps.append(f"put {files} into a folder and name it with --data-dir FOLDER")
    return "\n  ".join(step for step in steps if step)


def _download(item: Download, path: Path) -> None:
    if not item.url.startswith(("http://", "https://")):
        raise DataError(f"{item.url} is not an http or https address")
    part = path.with_name(f"{path.name}.part")
    with part.open("ab") as file, ExitStack() as stack:
        try:
            stack.enter_context(held(file, part))
        except Busy as problem:
            raise DataError(f"{problem.holder or 'another process'} is fetching {part}") from None
        try:
            _receive(item, file)
        except urllib.error.HTTPError as problem:
            raise DataError(f"{item.url}: the server says {problem.code} {problem.reason}") from None
        except (http.client.HTTPException, OSError, ValueError) as problem:
            reason = getattr(problem, "reason", None) or problem
            raise DataError(f"{item.url} could not be fetched: {reason}; {_kept(file)}") from None
        file.flush()
        received = sha256(part)
        if received != item.sha256:
            part.unlink()
            raise DataError(f"{item.url} has sha256 {received} instead of {item.sha256}: the file was deleted")
        part.replace(path)


def _receive(item: Download, file: BinaryIO) -> None:
    """Appends the rest of a download to an open file."""
    start = file.tell()
    headers = {"User-Agent": f"janus/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(item.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as problem:
        problem.close()
        if problem.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        return  # the file is complete already: its sha256 is checked next
    with response:
        if response.status != http.client.PARTIAL_CONTENT:
            start = 0
            file.seek(file.truncate(0))
        size = response.headers.get("Content-Length")
        total = start + int(size) if size and size.isdigit() else None
        with console.progress(f"fetching {item.save_as}", total, start=start) as bar:
            while block := response.read1(BLOCK):  # received blocks are kept if the connection breaks
                file.write(block)
                bar.advance(len(block))
        if total is not None and file.tell() != total:
            raise DataError(f"{item.url} broke off after {file.tell():,} of {total:,} bytes; {_kept(file)}")


def _kept(file: BinaryIO) -> str:
    return f"{console.counted(file.tell(), 'byte')} kept; the next attempt continues from there"
