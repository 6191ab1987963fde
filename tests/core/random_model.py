"""A random model whose outputs vary in length and content (a fresh one would say the same everywhere)."""

import random
import re
from typing import Any

import torch
from torch import Tensor

from janus_cli.core.batch import EOS, SPECIAL, UNK, pad
from janus_cli.core.knobs import Model
from janus_cli.core.model import Transformer

VOCABULARY = 19


def random_model(seed: int = 1, **options: Any) -> Transformer:
    """In float64, so that equal means equal, and without gradient."""
    torch.manual_seed(seed)
    shape = {"width": 16, "feedforward": 24, "heads": 2, "encoder_layers": 1, "decoder_layers": 2, "max_length": 20}
    knobs = Model(**{**shape, "norm": "pre", "tie": "none", "embedding_scale": False, **options})
    model = Transformer(knobs, VOCABULARY, VOCABULARY, length_head=True).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn_like(weight) * (1.0 if re.search("cross|output|length", name) else 0.5))
    return model.requires_grad_(False)


def sentences(count: int, seed: int = 3) -> list[list[int]]:
    """Of 1 to 9 tokens."""
    draw = random.Random(seed)
    return [[draw.choice([UNK, *range(SPECIAL, VOCABULARY)]) for _ in range(draw.randint(1, 9))] for _ in range(count)]


def source(rows: list[list[int]]) -> Tensor:
    """The batch of these sentences as the model reads them."""
    return pad([[*row, EOS] for row in rows])
