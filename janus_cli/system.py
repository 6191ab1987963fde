"""What differs between Linux and macOS, or between file systems: the rest of janus asks here.

Links and locks have a stand-in where they cannot be made: see `make_link` here and `files.held`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import signal
import stat
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

BROKEN_PIPE = 128 + signal.SIGPIPE  # exit code of a process that this signal ended
CANNOT = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # what file systems lack
_TAKEN: list[int] = []  # see `take_threads`


def lock(file: IO[Any], *, shared: bool = False) -> bool:
    """Locks an open file until it is closed. The system unlocks it when the process ends, however it ends.

    shared: others may hold such a lock, too.

    Returns:
        False if this file system has no locks.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno in CANNOT:
            return False
        raise
    return True


def common_folder() -> Path:
    """A folder on this machine's own disk: the same one for all its processes, whatever their TMPDIR."""
    import tempfile  # takes its time

    return Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())


def sync(path: Path) -> None:
    """fsync: makes a file's contents, or the names in a folder, survive a power cut; as far as the file system can."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as problem:
        if problem.errno not in CANNOT:
            raise
    finally:
        os.close(handle)


def make_link(path: Path, name: str) -> None:
    """Makes `path` a link to what is called `name` beside it; a text file with the name where there are no links."""
    with suppress(OSError):
        path.symlink_to(name)
        return
    path.write_text(f"{name}\n", encoding="utf-8")


def is_device(name: object) -> bool:
    """Whether this names a device: auto, cpu, cuda or cuda:N."""
    return isinstance(name, str) and bool(re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,2})?", name))


def followed(path: Path) -> Path:
    """The checkpoint that a link of `make_link` names, if it is a text file; else the path itself."""
    with suppress(OSError, ValueError):
        if path.is_file() and path.stat().st_size < 64:
            name = path.read_text(encoding="utf-8").strip()
            return path.with_name(name) if re.fullmatch(r"step-\d+", name) else path
    return path


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask a process to stop; SIGHUP not under `nohup`."""
    known = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    return known if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (*known, signal.SIGHUP)


def leave_terminal() -> None:
    """Ctrl-C no longer reaches this process; the signals that `ctrl_c_blocked` has made wait do now."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*stop_signals()} - {signal.SIGINT})


@contextmanager
def ctrl_c_blocked(*others: signal.Signals) -> Iterator[None]:
    """Processes started inside do not get Ctrl-C: this one does, and ends them.

    others: signals that wait, here until the end, and in those processes until `leave_terminal`.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # starting it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *others})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def c_function(name: str) -> Any:
    """A function of the C library; None if it has none of this name."""
    import ctypes

    return getattr(ctypes.CDLL(None), name, None)


def is_denied(path: Path) -> bool:
    """Whether there may be something that this user may not read; not if nothing is there."""
    try:
        return not (path.stat() and os.access(path, os.R_OK))
    except PermissionError:
        return True
    except OSError:
        return False


def whose(path: Path) -> str:
    """Which other user a file, or what can be seen of the path to it, belongs to, in words; empty if none."""
    for place in (path, *path.absolute().parents):
        with suppress(OSError):
            number = place.stat().st_uid
            with suppress(KeyError):  # a user that this machine does not know
                return "" if number == os.geteuid() else f"it belongs to {place.owner()}"
            return f"it belongs to user {number}"
    return ""


def is_suspended(process: str) -> bool:
    """Whether the process of this number is stopped, as by Ctrl-Z; False if nobody says."""
    return _in_file(f"/proc/{process}/status", r"^State:\s*(T)") is not None


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return int(os.process_cpu_count() or 1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Threads that torch computes with; where it is not imported, those of `take_threads`, or that torch would take.

    These are as many as there are cores, hyperthreads not counted, or fewer if OpenMP's variable says so.
    """
    if said := getattr(sys.modules.get("torch"), "get_num_threads", None):  # not while another thread imports it
        return int(said())
    return _TAKEN[0] if _TAKEN else _usual_threads()


@cache
def _usual_threads() -> int:
    cores = usable_cores()
    if hasattr(os, "sched_getaffinity"):
        place = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
        cores = len({_in_file(place.format(core), r"(.+)") or core for core in os.sched_getaffinity(0)})
    given = os.environ.get("MKL_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or ""
    found = re.match(r"\s*([1-9][0-9]{0,4})\s*(,|$)", given)
    return min(cores, int(found[1])) if found else cores


def take_threads(count: int) -> None:
    """Makes `threads` so many. If torch is to be used, it must be imported by now."""
    _TAKEN[:] = [count]
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def may_have_gpu() -> bool:
    """Whether there is a driver of CUDA or ROCm; without one, torch, which takes a second to import, finds no GPU."""
    import ctypes

    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        return True
    return any(Path("/dev", name).exists() for name in ("kfd", "dxg"))


def usable_memory() -> int | None:
    """Bytes of memory that this process may use: the machine's, or its container's if less; None if nobody says."""
    found = []
    with suppress(OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # no such file, or "max"
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    return min(found, default=None)


def load_average() -> float | None:
    """The load average of the last minute; None if the system does not provide it."""
    with suppress(OSError):
        return round(os.getloadavg()[0], 2)
    return None


def cpu_name() -> str:
    import platform

    return _in_file("/proc/cpuinfo", r"^model name\s*:\s*(.+)$") or platform.processor() or platform.machine()


def forget_peak() -> bool:
    """Resets `peak_bytes`; False if the system cannot (only Linux can)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """The peak memory of this process.

    ru_maxrss is the last resort: on Linux a process inherits that of the parent that started it.
    """
    kibibytes = _in_file("/proc/self/status", r"^VmHWM:\s*(\d+) kB")
    if kibibytes:
        return int(kibibytes) * 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _in_file(path: str, pattern: str) -> str | None:
    """The group of the first matching line; None if there is no such line or file."""
    with suppress(OSError):
        found = re.search(pattern, Path(path).read_text(encoding="utf-8"), re.MULTILINE)
        return found[1].strip() if found else None
    return None


def waiting_on_stdin() -> bool:
    """Whether a pipe on stdin holds something to read."""
    with suppress(OSError):
        return stat.S_ISFIFO(os.fstat(0).st_mode) and any(fcntl.ioctl(0, termios.FIONREAD, bytes(4)))
    return False
