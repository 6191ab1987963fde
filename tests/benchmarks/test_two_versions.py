"""The comparison of two versions: fake ones, which take as long as they are told."""

from pathlib import Path

import pytest

from tests.benchmarks.conftest import Called


def write_version(folder: Path, seconds: float) -> None:
    """A janus that sleeps, and notes that it was called."""
    (folder / "janus_cli").mkdir(parents=True)
    (folder / "janus_cli" / "__init__.py").touch()
    (folder / "janus_cli" / "__main__.py").write_text(
        f"import pathlib, time\ntime.sleep({seconds})\npathlib.Path('calls').open('a').write('x')\n"
    )


@pytest.mark.parametrize(("seconds", "code"), [(1.0, 1), (0.0, 0)])
def test_a_version_that_takes_longer_is_found(seconds: float, code: int, called: Called) -> None:
    write_version(Path("old"), 0.2)
    write_version(Path("new"), seconds)
    command = ["old", "new", "--only", "help", "--folder", "work", "--pairs"]
    run = called("two_versions", *command, "2")
    assert run.returncode == code, run.stderr
    assert run.stdout.startswith("--help")
    assert ("SLOWER" in run.stdout) == bool(code)


def test_a_comparison_continues_behind_its_last_pair(called: Called) -> None:
    for which in ("old", "new"):
        write_version(Path(which), 0.0)
    command = ["old", "new", "--only", "help", "--folder", "work", "--pairs"]
    for pairs in ("1", "3"):
        run = called("two_versions", *command, pairs)
        assert run.stdout.startswith("--help"), run.stderr
    assert len(Path("work/old/calls").read_text()) == 3 * 5
    other = called("two_versions", "new", *command[1:], "3")
    assert other.returncode == 1
    assert "ratios.jsonl" in other.stderr
