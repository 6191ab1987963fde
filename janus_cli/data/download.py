"""Fetching a recipe's text: resumable, checked against sha256, unpacked without trusting the archive."""

from __future__ import annotations

import http.client
import lzma
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, NamedTuple

from janus_cli import __version__, console
from janus_cli.data.corpus import SIDES, SPLITS, file_name, table_names
from janus_cli.data.lines import BLOCK
from janus_cli.errors import DataError
from janus_cli.files import Busy, held, sha256
from janus_cli.recipe import Data, Download

TIMEOUT = 30.0  # seconds without a byte
ARCHIVES = (".tgz", ".tar.gz", ".tar", ".tar.xz", ".tar.bz2", ".zip")


def fetch(data: Data, cache: Path) -> Path:
    """Fetches files that the folder `cache` lacks, unpacks the splits' files from archives, and returns the folder.

    A file gets its name only once its sha256 is right; until then it is NAME.part, which the next call continues.
    Raises DataError, with what to do by hand, if that fails.
    """
    must_be_fetchable(data)
    cache.mkdir(parents=True, exist_ok=True)
    wanted = {*table_names(data), *(name + ending for name in _names(data) for ending in ("", ".gz"))}
    try:
        for item in data.downloads:
            path = cache / item.save_as
            if not path.is_file() or sha256(path) != item.sha256:
                _download(item, path)
            if item.save_as.lower().endswith(ARCHIVES):
                unpack(path, cache, wanted)
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
    files = "these files" if in_tables else f"{', '.join(_names(data))} (or .gz)"
    steps.append(f"put {files} into a folder and name it with --data-dir FOLDER")
    return "\n  ".join(step for step in steps if step)


def _names(data: Data) -> list[str]:
    return [file_name(data, split, side) for split in SPLITS for side in SIDES]


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
            raise DataError(f"{item.url} has sha256 {received} instead of {item.sha256}: it was thrown away")
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


class Member(NamedTuple):
    """A file or folder in an archive; plain: it is one of these two. opened: opens a file; None for a folder."""

    name: str
    plain: bool
    opened: Callable[[], IO[bytes] | None] | None


@contextmanager
def _members(archive: Path) -> Iterator[list[Member]]:
    """The members of a tar, in whatever compression, or of a zip."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            yield [
                Member(each.filename, not stat.S_ISLNK(each.external_attr >> 16), partial(file.open, each))
                for each in file.infolist()
                if not each.is_dir()
            ]
        return
    with tarfile.open(archive) as tar:
        yield [
            Member(each.name, each.isfile() or each.isdir(), partial(tar.extractfile, each) if each.isfile() else None)
            for each in tar.getmembers()
        ]


def unpack(archive: Path, folder: Path, wanted: Collection[str]) -> None:
    """Extracts the wanted files of an archive, whatever folder of it they are in, directly into `folder`.

    Raises DataError, and writes nothing, if it is damaged or a member is a link, a device, or lies outside of it.
    """
    try:
        with _members(archive) as members:
            for member in members:
                path = PurePosixPath(member.name.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or not member.plain:
                    raise DataError(f"{archive} is refused: {member.name} is a link, a device or outside of it")
            found = [PurePosixPath(member.name).name for member in members if member.opened]
            if several := [name for name in wanted if found.count(name) > 1]:
                raise DataError(f"{archive} has several files called {several[0]}")
            for member in members:
                name = PurePosixPath(member.name).name
                if member.opened is None or name not in wanted:
                    continue
                part, content = folder / f"{name}.part", member.opened()
                assert content is not None  # a plain file
                with content, part.open("wb") as file:
                    shutil.copyfileobj(content, file, BLOCK)
                part.replace(folder / name)
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, EOFError, zlib.error, OSError) as problem:
        raise DataError(f"{archive} is damaged: {problem}") from None
    except RuntimeError as problem:  # encrypted, or compressed in a way that Python does not know
        raise DataError(f"{archive} cannot be unpacked: {problem}") from None
