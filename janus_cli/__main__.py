"""Where `janus` and `python -m janus_cli` begin (torchrun starts it the second way)."""

import sys


def main() -> None:
    """Runs `cli.main`; Ctrl-C is no error while that is still being imported either."""
    try:
        from janus_cli import cli
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
