"""Every command that reads a tokenizer, with that of a Hugging Face model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.data import hf_models
from tests.helpers import Janus, printed, read_json, sets


@pytest.mark.parametrize("name", ["bart", "marian"])
def test_from_text_to_outputs(tiny_recipe: Path, shell: Janus, name: str) -> None:
    def janus(*words: str) -> str:
        return printed(shell(*words))

    short = sets("decoding.max_ratio=0.1", "decoding.max_extra=5")
    model = hf_models.unpack(name, Path(name))
    own = ("--recipe", str(tiny_recipe), *sets("tokenizer.kind=hf", "data.max_tokens=62", "data.task=generation"))
    knobs = (*own, *sets(f"tokenizer.reuse={name}"))
    janus("preprocess", *knobs, "--out", "prepared", "--workers", "2")
    shutil.rmtree(model)
    janus("train", *knobs, *sets("training.updates=2"), "--prepared", "prepared", "--run", "run")
    for mode in ("ar", "nar"):
        assert "\n" in janus("decode", "--run", "run", "--mode", mode, *short, "--trace")
    assert "lost in the tokenizer" in janus("inspect", "run")
    janus("distill", "--run", "run", "--out", "distilled", *short)
    janus("export", "--run", "run", "--out", "exported")
    found = read_json("exported/config.json")
    assert found["tokenizer"]["kind"] == "hf"
    again = (*own, *sets("tokenizer.reuse=exported"))
    janus("preprocess", *again, "--out", "again")
    janus("train", *again, *sets("training.updates=2"), "--prepared", "again", "--from", "run", "--run", "second")
