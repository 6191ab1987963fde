"""`python -m janus_cli`, the same as `janus` (torchrun starts it this way)."""

from janus_cli.cli import main

if __name__ == "__main__":
    main()
