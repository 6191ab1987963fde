"""janus: one encoder-decoder Transformer that generates autoregressively and non-autoregressively.

In Python: `janus_cli.load("runs/x").translate(["a text"])`, see docs/python.md.
"""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["JanusError", "Result", "Score", "Translator", "__version__", "load"]

_HOMES = {  # modules of names that are imported on first use: importing janus_cli does not import torch
    "JanusError": "janus_cli.errors",
    "Result": "janus_cli.decoding.translate",
    "Score": "janus_cli.decoding.likelihood",
    "Translator": "janus_cli.decoding.translate",
    "load": "janus_cli.decoding.translate",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
