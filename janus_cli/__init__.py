"""janus: one encoder-decoder Transformer that generates autoregressively and non-autoregressively."""

__version__ = "0.1.0"
