"""Runs to export: a tokenizer trained on a few made-up lines, and random weights."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from janus_cli import recipe_load
from janus_cli.data.tokenizer import train_tokenizers
from janus_cli.files import write_atomically
from janus_cli.training import checkpoint
from janus_cli.training.model import build_model

MakeRun = Callable[..., Path]
CHANGES = [
    "tokenizer.vocabulary=80", "data.max_tokens=28", "model.max_length=30", "model.width=16", "model.feedforward=24",
    "model.heads=2", "model.encoder_layers=1", "model.decoder_layers=1", "decoding.max_ratio=1.1",
    "decoding.max_extra=3",
]  # fmt: skip


def text(seed: int, count: int) -> list[str]:
    """Lines of 1 to 9 words made of the letters a-h."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(1, 5))) for _ in range(40)]
    return [" ".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(count)]


@pytest.fixture
def make_run(empty_folder: Path) -> MakeRun:
    """Makes runs/NAME in a new working directory: `make_run(name, objective, changes, lines of both sides)`."""

    def make(
        name: str, objective: str = "ar", changes: Sequence[str] = (),
        lines: tuple[Sequence[str], Sequence[str]] | None = None,
    ) -> Path:  # fmt: skip
        recipe = recipe_load.load("demo", [*CHANGES, *changes], objective)
        run = Path("runs") / name
        (run / "checkpoints").mkdir(parents=True)
        sides = lines or (text(1, 200), text(1 if recipe.tokenizer.joint else 2, 200))
        tokenizers = train_tokenizers(recipe.tokenizer, sides[0], sides[1], run)
        write_atomically(run / "recipe.yaml", recipe_load.dump(recipe).encode())
        write_atomically(run / "manifest.json", b'{"files": {}}\n')
        sizes = tokenizers.source.size, tokenizers.target.size
        torch.manual_seed(5)
        model = build_model(recipe, *sizes).requires_grad_(False)
        for part, weight in model.named_parameters():
            # Large enough that every part matters; norms and biases too, which begin as ones and zeros.
            noise = torch.randn_like(weight) * (1.5 if re.search("positions|cross|length", part) else 1.0)
            scale = 0.25 if weight.dim() == 1 else 0.5 if "_table" in part else 1.0
            weight.copy_(scale * noise + (weight if weight.dim() == 1 else 0.0))
        state = {"step": 7, "metrics": {}}
        folder = run / "checkpoints/step-000007"
        checkpoint.save(folder, recipe, sizes, state, model.weights())
        checkpoint.move_link(run / "checkpoints", "last", folder)
        return run

    return make
