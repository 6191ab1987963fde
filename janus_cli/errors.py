"""Errors that a user can act on, each with its exit code; `cli.main` prints `error:` and `hint:`, no traceback."""

import errno
import importlib
import signal
import sys
from pathlib import Path
from types import ModuleType

from janus_cli.system import whose
from janus_cli.terminal import command


class JanusError(Exception):
    """A mistake or a condition that the user can act on.

    Args:
        message: names the thing and the value.
        hint: the next step, a sentence or a command; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(JanusError):
    """A wrong option, or a recipe with mistakes."""

    exit_code = 2


class DataError(JanusError):
    """Text, prepared data or hypotheses that cannot be used."""

    exit_code = 3


class CheckpointError(JanusError):
    """A checkpoint that is damaged, not one of janus, or does not fit the recipe."""

    exit_code = 4


class NonFiniteError(JanusError):
    """The loss or the gradient stayed non-finite for too many steps in a row."""

    exit_code = 5


class OutOfMemoryError(JanusError):
    """Batches did not fit into memory, even split."""

    exit_code = 6


class RunInUseError(JanusError):
    """Another process is writing this run or this file."""

    exit_code = 7


class Interrupt(KeyboardInterrupt):
    """A stop signal came (see `system.stop_signals`)."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


class Stopped(JanusError):
    """A signal ended the work after it was saved; the exit code is 128 + the signal's number."""

    def __init__(self, signal_number: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number


_SPACE, _PLACE = "free some space and run it again", "check the permissions, or choose another place"
_SYSTEM: dict[int, tuple[type[JanusError], str]] = {  # what a user can act on in an OSError, and how
    errno.ENOSPC: (JanusError, _SPACE),
    errno.EDQUOT: (JanusError, _SPACE),
    errno.EFBIG: (JanusError, "raise the limit on file sizes (`ulimit -f`)"),
    errno.EROFS: (UsageError, "choose a folder that can be written"),
    errno.EACCES: (UsageError, _PLACE),
    errno.EPERM: (UsageError, _PLACE),
    errno.ENAMETOOLONG: (UsageError, "a name may have 255 bytes on most systems: choose a shorter one"),
    errno.ELOOP: (UsageError, "its links lead in a circle: see `ls -l`"),
    errno.ENOTDIR: (UsageError, "a part of this path is a file, not a folder"),
    errno.EISDIR: (UsageError, "name a file, not a folder"),
    errno.EEXIST: (UsageError, "a file of this name is in the way: choose another place"),
    errno.ENXIO: (UsageError, "name a file or a folder, no device"),
    errno.ENOENT: (DataError, "is the path right, or was it removed meanwhile?"),
}
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # nothing more can be written
_NAMELESS: dict[type[JanusError], str] = {  # what has no path
    JanusError: "output", DataError: "the current folder", UsageError: "the system",
}  # fmt: skip


def from_system(problem: OSError) -> JanusError | None:
    """An OSError in words, with what to do; None if it has no number: then it is a bug.

    The one place that knows which failures of the system are about a path or a disk.
    """
    if problem.errno not in _SYSTEM:
        return JanusError(f"{problem.filename or 'the system'}: {problem.strerror}") if problem.errno else None
    kind, next_step = _SYSTEM[problem.errno]
    if next_step == _PLACE and problem.filename and (other := whose(Path(str(problem.filename)))):
        next_step = f"{other}: ask for permission, or work on a copy or elsewhere"
    return kind(f"{problem.filename or _NAMELESS[kind]}: {problem.strerror}", next_step)


def check_machine(problem: BaseException, doing: str = "") -> None:
    """Raises what is no fault of the file at hand: no more files can be opened, no permission, a full disk, no memory.

    doing: completes "not enough memory", as in "to read x".
    """
    words = ("Too many open files", "os error 24")  # also of torch, safetensors and the dynamic linker
    if getattr(problem, "errno", None) in (errno.EMFILE, errno.ENFILE) or any(each in str(problem) for each in words):
        raise JanusError("too many open files", "raise `ulimit -n`") from None
    if isinstance(problem, OSError) and problem.errno in DENIED | FULL and (told := from_system(problem)):
        raise told from None
    if is_about_memory(problem):
        what = doing or f"({str(problem).split(chr(10))[0] or type(problem).__name__})"
        hint = "free some, or raise the limit of this shell (`ulimit -v`)"
        raise OutOfMemoryError(f"not enough memory {what}", hint) from None


def is_about_memory(problem: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the host or a GPU: Python's, torch's or the system's."""
    # Torch's, which is not imported here, and oneDNN's.
    torchs = type(problem).__name__ == "OutOfMemoryError" or str(problem) == "could not create a primitive"
    if torchs or isinstance(problem, MemoryError) or getattr(problem, "errno", None) == errno.ENOMEM:
        return True
    words = (
        "can't allocate memory", "Cannot allocate memory", "out of memory", "bad_alloc", "failed to map segment",
        "ALLOC_FAILED",  # of cuBLAS and cuDNN
    )  # fmt: skip
    return any(each in str(problem) for each in words)


def require(module: str, extra: str) -> ModuleType:
    """Imports an optional dependency.

    Raises:
        UsageError: it is not installed; the hint is the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as problem:
        raise UsageError(f"{problem.name} is not installed", _install_command(extra)) from None


def _install_command(extra: str) -> str:
    """How pip installs an extra into this environment, from where janus came: a folder, wheel, repository or index."""
    import json
    from importlib import metadata
    from urllib.parse import unquote

    try:
        origin = json.loads(metadata.distribution("janus-cli").read_text("direct_url.json") or "{}")  # PEP 610
    except metadata.PackageNotFoundError:  # imported from a clone that is not installed
        origin = {"url": Path(__file__).parents[1].as_uri(), "dir_info": {"editable": True}}
    url, install = origin.get("url", ""), (sys.executable, "-m", "pip", "install")  # that on PATH may be another's
    if "vcs_info" in origin:
        return command(*install, f"janus-cli[{extra}] @ {origin['vcs_info']['vcs']}+{url}")
    if url.startswith("file://"):
        editable = ["-e"] * bool(origin.get("dir_info", {}).get("editable"))
        return command(*install, *editable, f"{unquote(url.removeprefix('file://'))}[{extra}]")
    return command(*install, f"janus-cli[{extra}]")
