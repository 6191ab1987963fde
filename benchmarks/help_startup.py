"""How long `janus --help` takes beside `python -c 'import typer'`, measured in turns: at most three times as long.

python benchmarks/help_startup.py
"""

import statistics
import subprocess
import sys
import time

TURNS = 15
LIMIT = 3.0
COMMANDS = {
    "python -c 'import typer'": [sys.executable, "-c", "import typer"],
    "janus --help": [sys.executable, "-m", "janus_cli", "--help"],
}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(TURNS):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    typer, janus = (statistics.median(taken) for taken in times.values())
    for name, taken in times.items():
        sys.stdout.write(f"{name:<26} median {statistics.median(taken):.3f} s  best {min(taken):.3f} s\n")
    sys.stdout.write(f"ratio {janus / typer:.2f}, limit {LIMIT:.0f}\n")
    sys.exit(janus > LIMIT * typer)


if __name__ == "__main__":
    main()
