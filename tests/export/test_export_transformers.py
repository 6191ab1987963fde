"""The folder for transformers: what was imported comes back as it was, and any AR side generates the same there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("tokenizers")

import hf_folders

from janus_cli.core.batch import EOS
from janus_cli.decoding.translate import load
from tests.helpers import read_json

MakeRun = Callable[..., Path]
Janus = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("name", hf_folders.CASES)
def test_what_was_imported_and_exported_is_imported_again_to_the_bit(
    janus: Janus, empty_folder: Path, name: str
) -> None:
    found: dict[str, Any] = json.loads((hf_folders.GOLDEN / f"{name}.json").read_bytes())
    Path("model").mkdir()
    hf_folders.unpack(found["files"], Path("model"))
    given = zip(("--source-language", "--target-language"), hf_folders.CASES[name][4], strict=True)
    languages = [word for option, code in given if code for word in (option, code)]
    assert janus("import", "model", *languages)[0] == 0
    assert janus("export", "model", "--format", "transformers", "--out", "back")[0] == 0
    assert janus("import", "back", "--run", "again", *languages)[0] == 0
    for file in ("model.safetensors", "tokenizer.json"):
        assert Path("again", file).read_bytes() == Path("runs/model", file).read_bytes()
    assert read_json("again/config.json")["decoding"] == read_json("runs/model/config.json")["decoding"]
    assert [result.text for result in load("again").translate(found["lines"])] == found["outputs"]


def test_what_transformers_cannot_have_is_refused(make_run: MakeRun, janus: Janus) -> None:
    make_run("nar", "cmlm")
    make_run("concat", "ar", ["model.embedding=concat"])
    for run, named in (("nar", "cmlm"), ("concat", "model.embedding")):
        code, _, err = janus("export", run, "--format", "transformers", "--out", "out")
        assert (code, named in err, Path("out").exists()) == (2, True, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        [], ["model.norm=pre", "model.positions=sinusoidal"], ["model.embedding_norm=true", "model.tie=none"],
        ["model.norm=pre", "model.embedding_norm=true", "model.activation=gelu"],
        ["tokenizer.joint=false", "model.tie=target", "model.positions=marian"],
    ],
)  # fmt: skip
def test_any_ar_side_generates_the_same_in_transformers(make_run: MakeRun, janus: Janus, changes: list[str]) -> None:
    transformers = pytest.importorskip("transformers")
    make_run("run", "janus", [*changes, "decoding.max_ratio=0", "decoding.max_extra=20", "decoding.free_end=true"])
    assert janus("export", "run", "--format", "transformers", "--out", "out")[0] == 0
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained("out").eval()
    ours, lines = load("run"), ["abc de", "fgh a b c", "h"]
    for line, result in zip(lines, ours.translate(lines, mode="ar"), strict=True):
        ids = torch.tensor([[*ours.tokenizers.source.encode([line])[0], EOS]])
        with torch.inference_mode():
            row = theirs.generate(input_ids=ids, attention_mask=torch.ones_like(ids))[0].tolist()[1:]
        assert row[: row.index(EOS)] == result.outputs[0].tokens
