"""Text on disk: the files that hold it (of a data set that `save_to_disk` wrote, those it names), and their digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from janus_cli import documents
from janus_cli.errors import DataError
from janus_cli.files import sha256

DATA_SET, SPLITS_OF = "state.json", "dataset_dict.json"  # in the folder of a data set; in that of its splits


def is_data_set(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder; other folders may hold Arrow files of several splits."""
    return (path / DATA_SET).is_file()


def files_of(path: Path) -> list[Path]:
    """The file itself, or those with the rows of a data set, in their order.

    Raises:
        DataError: the data set is not whole, or only a selection of its rows counts.
    """
    if not is_data_set(path):
        return [path]
    state = documents.read(path / DATA_SET, documents.Document)
    if state.get("_indices_data_files"):
        raise DataError(
            f"{path} was saved with a selection of its rows", "save it again: dataset.flatten_indices().save_to_disk(…)"
        )
    try:
        names = [str(file["filename"]) for file in state["_data_files"]]
    except (KeyError, TypeError):
        raise DataError(f"{path / DATA_SET} is damaged: it names no data files", "save the data set again") from None
    for name in names:
        if Path(name).name != name or not (path / name).is_file():
            raise DataError(f"{path} is incomplete: there is no file {name!r}", "save the data set again")
    return [path / name for name in names]


def _all_files(path: Path) -> list[Path]:
    return [path / DATA_SET, *files_of(path)] if is_data_set(path) else [path]


def last_change(path: Path) -> int:
    """The later of mtime and ctime, in nanoseconds: replacement by an older file shows, too."""
    found = [file.stat() for file in _all_files(path)]
    return max(max(status.st_mtime_ns, status.st_ctime_ns) for status in found)


def disk_size(path: Path) -> int:
    """The bytes of a text on disk."""
    return sum(file.stat().st_size for file in _all_files(path))


def digest(path: Path) -> str:
    """The sha256 of a text on disk; of a data set, that of the digests of its files, state.json first."""
    digests = [sha256(file) for file in _all_files(path)]
    return hashlib.sha256("".join(digests).encode()).hexdigest() if is_data_set(path) else digests[0]
