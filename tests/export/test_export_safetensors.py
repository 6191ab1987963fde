"""The safetensors folder: works without its run, and says everything about itself."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from janus_cli.training.model import load_model
from tests.helpers import Janus, ends, read_json

MakeRun = Callable[..., Path]


@pytest.mark.parametrize(
    ("objective", "changes"),
    [
        ("ar", []),
        ("cmlm", ["tokenizer.joint=false", "model.tie=target", "model.norm=pre"]),
        ("janus", ["model.tie=none", "model.positions=sinusoidal", "model.embedding_norm=true"]),
        ("janus", ["model.causal_attention=true", "model.embedding=concat"]),
        ("janus", ["objective.ar_stream=query", "tokenizer.kind=words", "model.activation=gelu"]),
    ],
)
def test_the_folder_works_without_its_run(make_run: MakeRun, janus: Janus, objective: str, changes: list[str]) -> None:
    run = make_run("run", objective, changes)
    Path("text").write_bytes(b"abc de\n\nfgh a b c\n")
    modes = {"ar": ["ar"], "cmlm": ["nar"], "janus": ["ar", "nar"]}[objective]
    for mode in modes:
        assert janus("decode", "--mode", mode, "--input", "text", "--output", f"ours.{mode}")[0] == 0
    weights = load_model((run / "checkpoints" / "last").resolve()).weights()
    ends(janus("export", "--output", "out"), 0, "out/README.txt", out="")
    Path("new").mkdir()
    shutil.move("out", "new/place")
    shutil.rmtree("runs")
    place = Path("new/place")
    found = load_file(place / "model.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    for mode in modes:
        options = ("--checkpoint", str(place), "--mode", mode, "--input", "text")
        assert janus("decode", *options, "--output", f"again.{mode}")[0] == 0
        assert Path(f"again.{mode}").read_bytes() == Path(f"ours.{mode}").read_bytes()
    assert f"objective:\n  name: {objective}" in janus("inspect", str(place))[1]


def test_the_configuration_says_how_to_rebuild_and_to_use_the_model(make_run: MakeRun, janus: Janus) -> None:
    make_run("run", "janus", ["tokenizer.joint=false", "model.tie=target", "data.clean=[lowercase]"])
    janus("export", "--output", "out")
    found = read_json("out/config.json")
    weights = load_file("out/model.safetensors")
    for side in ("source", "target"):
        assert weights[f"{side}_table.weight"].shape == (found[f"{side}_vocabulary"], found["model"]["width"])
    assert weights["length_table"].shape[0] == found["max_length"] == 30
    assert (found["objective"], found["ar_stream"], found["length_head"]) == ("janus", "content", True)
    assert found["special_ids"] == {"pad": 0, "unk": 1, "bos": 2, "eos": 3, "mask": 4}
    assert found["tokenizer"]["files"] == {"source": "source.model", "target": "target.model"}
    assert (found["clean"], found["decoding"]["max_ratio"]) == (["lowercase"], 1.1)
    assert "the model is to read: lowercase." in Path("out/README.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("objective", ["ar", "cmlm", "cmlmc"])
def test_the_readme_is_true(make_run: MakeRun, janus: Janus, monkeypatch: pytest.MonkeyPatch, objective: str) -> None:
    make_run("run", objective, ["model.encoder_layers=2", "model.positions=sinusoidal", "model.tie=none"])
    janus("export", "--output", "out")
    monkeypatch.chdir("out")
    text = Path("README.txt").read_text(encoding="utf-8")
    blocks = re.findall(r":\n\n((?:  (?:from|model|weights).*\n)+)", text)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(re.sub("^  ", "", block, flags=re.M), names)
    weights = names["weights"]
    assert names["tokenizers"].source.size == len(weights["source_table.weight"])
    listed = re.findall(r"^  (\S+) +(\d+(?: x \d+)*)(?: +N = 0 \.\. (\d))?$", text, re.M)
    found = {}
    for name, shape, last in listed:
        for layer in range(int(last or 0) + 1):
            found[name.replace(".N.", f".{layer}.")] = [int(size) for size in shape.split(" x ")]
    assert found == {name: list(weight.shape) for name, weight in weights.items()}
    assert names["model"].weights().keys() == weights.keys()
    mentioned = [Path(name) for name in re.findall(r"(?<![\w.])[a-z.]+\.(?:json|yaml|safetensors|model)\b", text)]
    assert len(mentioned) > 6
    assert all(name.is_file() for name in mentioned)
    assert all(name.name in text for name in Path().iterdir() if name.name != "README.txt")
    assert ("length_table; the class n" in text) == (objective != "ar")
    for words in ("a linear map (source_map, target_map) of table[id] and position", "attend to the target twice"):
        assert (words in text) == (objective == "cmlmc")


@pytest.mark.parametrize("kind", ["safetensors", "ctranslate2"])
def test_nothing_of_the_machine_leaves(make_run: MakeRun, janus: Janus, empty_folder: Path, kind: str) -> None:
    here = Path.cwd()
    other = make_run("elsewhere")
    places = [f"tokenizer.reuse={here / other}", f"data.dir={here}/text", f"data.notes=see {kind}"]
    places += [f'data.files.valid=["{here}/a.src", "{here}/a.tgt"]']
    if kind == "ctranslate2":
        pytest.importorskip("ctranslate2")
        make_run("second", "ar", places)
    else:
        make_run("second", "cemat", [*places, f"objective.dictionary={here}/words.tsv"])
    ends(janus("export", "runs/second", "--format", kind, "--out", "out"), 0)
    assert here.name in Path("runs/second/recipe.yaml").read_text(encoding="utf-8")
    for file in Path("out").iterdir():
        assert here.name.encode() not in file.read_bytes(), file
    if kind == "safetensors":
        Path("text").write_text("abc\n")
        assert janus("decode", "--checkpoint", "out", "--input", "text")[0] == 0
