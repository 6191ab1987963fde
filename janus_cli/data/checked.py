"""Which files of a prepared folder were read to the end before and found right, and are the same files still.

Size, times and inode stand for the contents, as in git's index. A file that changed within the last seconds before it
was read is not noted: it could change once more without showing it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from janus_cli.files import write_atomically

NOTES = ".checked.json"
SETTLED = 3 * 10**9  # nanoseconds; clocks of file systems are coarse, two seconds at the worst


def known(folder: Path, files: Mapping[str, Any]) -> set[str]:
    """Names of the files that need not be read again to have the sha256 that the manifest's `files` give them."""
    try:
        notes = json.loads((folder / NOTES).read_bytes())
        return {name for name, about in files.items() if notes.get(name) == [about["sha256"], *_looks(folder / name)]}
    except (OSError, ValueError, AttributeError):
        return set()


def note(folder: Path, files: Mapping[str, Any], began: int) -> None:
    """Notes that all `files` were found right; began: when reading them began, in nanoseconds of the clock."""
    notes: dict[str, list[Any]] = {}
    with suppress(OSError):  # a folder that only can be read is checked each time
        for name, about in files.items():
            looks = _looks(folder / name)
            if max(looks[1:3]) < began - SETTLED:
                notes[name] = [about["sha256"], *looks]
        if notes and known(folder, files) != notes.keys():
            write_atomically(folder / NOTES, json.dumps(notes, indent=1).encode())


def _looks(path: Path) -> list[int]:
    """Bytes, when the contents and when the inode changed, and which inode it is."""
    about = path.lstat()
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
