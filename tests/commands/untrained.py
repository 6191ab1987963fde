"""A run with large random weights, whose outputs differ though nobody trained it; and how to read what it decodes."""

import json
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from janus_cli import recipe_load
from janus_cli.data.tokenizer import load_tokenizers
from janus_cli.files import copy_files, write_atomically
from janus_cli.training import checkpoint
from janus_cli.training.model import build_model
from tests.helpers import edit_json

Stop = Callable[[int, Callable[[], object]], None]
LINES = 20
CHANGES = [
    "data.synthetic.train=300", "data.synthetic.valid=10", f"data.synthetic.test={LINES}", "data.max_tokens=38",
    "tokenizer.vocabulary=250", "model.width=16", "model.feedforward=24", "model.heads=2", "model.encoder_layers=1",
    "model.decoder_layers=1", "model.max_length=40", "model.tie=none", "model.norm=pre", "model.embedding_scale=false",
    "decoding.batch_sentences=8", "decoding.beam=3", "decoding.iters=3",
    "decoding.max_ratio=0.5", "decoding.max_extra=2",
]  # fmt: skip


def make_run(root: Path, prepared: Path, objective: str, *changes: str, name: str = "") -> Path:
    """A run as `janus train` leaves it, with large random weights; runs/OBJECTIVE if it has no other name."""
    recipe = recipe_load.load("demo", [*CHANGES, *changes], objective)
    run = root / "runs" / (name or objective)
    (run / "checkpoints").mkdir(parents=True)
    tokenizers = load_tokenizers(prepared)
    copy_files([*tokenizers.files, "manifest.json"], prepared, run)
    edit_json(run / "manifest.json", prepared=str(prepared))
    write_atomically(run / "recipe.yaml", recipe_load.dump(recipe).encode())
    sizes = tokenizers.source.size, tokenizers.target.size
    for step in (1, 2):
        torch.manual_seed(step)
        model = build_model(recipe, *sizes).requires_grad_(False)
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn_like(weight) * (1.0 if re.search("cross|output|length", name) else 0.5))
        folder = run / f"checkpoints/step-{step:06d}"
        checkpoint.save(folder, recipe, sizes, {"step": step}, model.weights())
        checkpoint.move_link(run / "checkpoints", "last", folder)
    return run


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def resume_command(err: str) -> list[str]:
    """The arguments of the command that the hint names, behind its verb."""
    found = re.search(r"resume with: janus \w+ (.*?)( \(with the same text on stdin\))?$", err, re.MULTILINE)
    assert found
    return shlex.split(found[1])


def lines(text: str) -> list[str]:
    assert text.endswith("\n")
    return text.removesuffix("\n").split("\n")


def source() -> list[str]:
    return lines(Path("data/demo/test.source.txt").read_text(encoding="utf-8"))


def target() -> list[str]:
    return lines(Path("data/demo/test.target.txt").read_text(encoding="utf-8"))


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(text)]
