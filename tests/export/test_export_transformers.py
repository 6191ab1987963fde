"""The folder for transformers: what was imported comes back as it was, and any AR side generates the same there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("tokenizers")

import hf_folders
import hf_models
import tokenizers

from janus_cli.core.batch import EOS, PAD
from janus_cli.core.search.sample import likeliest
from janus_cli.core.steps import log_probabilities
from janus_cli.core.stream import content
from janus_cli.core.writing import never_written
from janus_cli.decoding.translate import load
from tests.helpers import Janus, edit_json, ends, read_json

MakeRun = Callable[..., Path]


def golden(name: str) -> tuple[dict[str, Any], list[str]]:
    """Unpacks a committed model as `model`; returns what is known of it, and the options with which it is imported."""
    found: dict[str, Any] = read_json(hf_folders.GOLDEN / f"{name}.json")
    Path("model").mkdir()
    hf_folders.unpack(found["files"], Path("model"))
    given = zip(("--source-language", "--target-language"), hf_folders.CASES[name][4], strict=True)
    return found, [word for option, code in given if code for word in (option, code)]


@pytest.mark.parametrize("name", hf_folders.CASES)
def test_what_was_imported_and_exported_is_what_transformers_generated_the_same_texts_from(
    janus: Janus, empty_folder: Path, name: str
) -> None:
    """Without transformers: it was asked when golden_hf/exported.json was written."""
    found, languages = golden(name)
    assert janus("import", "model", *languages)[0] == 0
    assert "warning" not in ends(janus("export", "model", "--format", "transformers", "--out", "back"), 0)
    known = read_json(hf_folders.GOLDEN / "exported.json")[name]
    assert known.pop("outputs") == found["outputs"]
    assert hf_folders.contents(Path("back")) == known


@pytest.mark.parametrize("name", hf_folders.CASES)
def test_what_was_imported_and_exported_is_imported_again_to_the_bit(
    janus: Janus, empty_folder: Path, name: str
) -> None:
    found, languages = golden(name)
    assert janus("import", "model", *languages)[0] == 0
    assert janus("export", "model", "--format", "transformers", "--out", "back")[0] == 0
    assert janus("import", "back", "--run", "again", *languages)[0] == 0
    for file in ("model.safetensors", "tokenizer.json"):
        assert Path("again", file).read_bytes() == Path("runs/model", file).read_bytes()
    assert read_json("again/config.json")["decoding"] == read_json("runs/model/config.json")["decoding"]
    assert [result.text for result in load("again").translate(found["lines"])] == found["outputs"]


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "temperature": 0.7, "top_k": 7, "top_p": 0.9, "num_return_sequences": 3},
        {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0},
        {"num_beams": 3, "early_stopping": "never", "length_penalty": 0.0, "min_length": 9, "max_length": 30},
    ],
)  # fmt: skip
def test_settings_of_generation_come_back_as_they_were(
    janus: Janus, empty_folder: Path, settings: dict[str, Any]
) -> None:
    golden("bart")
    edit_json("model/generation_config.json", **{"num_beams": 1, "early_stopping": False, **settings})
    assert "warning" not in ends(janus("import", "model"), 0)
    assert "warning" not in ends(janus("export", "model", "--format", "transformers", "--out", "back"), 0)
    back = read_json("back/generation_config.json")
    assert {name: back[name] for name in settings} == settings


def test_what_transformers_takes_where_nothing_is_said_of_samples_is_taken(janus: Janus, empty_folder: Path) -> None:
    golden("bart")
    edit_json("model/generation_config.json", do_sample=True, num_beams=1)
    assert janus("import", "model")[0] == 0
    decoding = read_json("runs/model/config.json")["decoding"]
    assert (decoding["temperature"], decoding["top_k"], decoding["top_p"]) == (1.0, 50, 1.0)


@pytest.mark.parametrize("free_end", ["false", "true"])
def test_outputs_at_the_limit_end_there_as_here(make_run: MakeRun, janus: Janus, free_end: str) -> None:
    make_run("run", "ar", ["decoding.max_ratio=0", "decoding.max_extra=7", f"decoding.free_end={free_end}"])
    assert janus("export", "run", "--format", "transformers", "--out", "out")[0] == 0
    settings = read_json("out/generation_config.json")
    assert (settings["forced_eos_token_id"], settings["max_length"]) == (EOS, 9)  # with what the decoder starts with


@pytest.mark.parametrize(
    "knobs",
    [
        {"diversity": "0.5", "groups": "2", "nbest": "2", "beam": "4"}, {"precision": "bf16"}, {"mode": "spec"},
        {"mode": "nar"},
    ],
    ids=str,
)  # fmt: skip
def test_knobs_that_nothing_there_corresponds_to_are_named(
    make_run: MakeRun, janus: Janus, knobs: dict[str, str]
) -> None:
    make_run("run", "janus", [f"decoding.{name}={value}" for name, value in knobs.items()])
    code, _, err = janus("export", "run", "--format", "transformers", "--out", "out")
    lost = [f"{name} {value}" for name, value in knobs.items() if name not in ("nbest", "beam")]
    readme = Path("out/README.txt").read_text()
    assert (code, "warning" in err, all(each in err and each in readme for each in lost)) == (0, True, True), err


def test_a_recipe_that_sets_nothing_else_is_exported_without_a_warning(make_run: MakeRun, janus: Janus) -> None:
    make_run("run", "janus", ["decoding.iters=4", "decoding.batch_sentences=8", "decoding.engine=torch"])
    assert "warning" not in ends(janus("export", "run", "--format", "transformers", "--out", "out"), 0)


def test_what_transformers_cannot_have_is_refused(make_run: MakeRun, janus: Janus) -> None:
    make_run("nar", "cmlm")
    make_run("concat", "ar", ["model.embedding=concat"])
    for run, named in (("nar", "cmlm"), ("concat", "model.embedding")):
        code, _, err = janus("export", run, "--format", "transformers", "--out", "out")
        assert (code, named in err, Path("out").exists()) == (2, True, False)


def test_a_model_without_mbarts_language_is_refused_as_its_tokenizer_would_add_one(
    make_run: MakeRun, janus: Janus, tmp_path: Path
) -> None:
    (tmp_path / "mbart").mkdir()
    (tmp_path / "mbart/sentencepiece.bpe.model").write_bytes(hf_models.pieces(hf_models.TEXT, 300))
    make_run("run", "ar", ["tokenizer.kind=hf", f"tokenizer.reuse={tmp_path / 'mbart'}"])
    code, _, err = janus("export", "run", "--format", "transformers", "--out", "out")
    assert (code, "mBART" in err, Path("out").exists()) == (2, True, False), err


def frameless(make_run: MakeRun, name: str, norm: str) -> None:
    """A run whose tokenizer is that of a model's folder, without what the model's texts begin with."""
    folder = Path("model")
    if name in hf_folders.CASES:
        golden(name)
    else:
        hf_models.unpack(name, folder)
    limits = ["decoding.max_ratio=0", "decoding.max_extra=15", "decoding.free_end=true"]
    kind = ["tokenizer.kind=hf", f"tokenizer.reuse={folder.resolve()}", f"model.norm={norm}"]
    make_run("run", "ar", [*kind, *limits])


def test_where_the_end_also_fills_batches_up_it_does_there(make_run: MakeRun, janus: Janus) -> None:
    hf_models.unpack("wordpiece", Path("model"))
    hf_models.write(Path("model"), "tokenizer_config.json", {"pad_token": "[SEP]", "eos_token": "[SEP]"})
    make_run("run", "ar", ["tokenizer.kind=hf", f"tokenizer.reuse={Path('model').resolve()}"])
    code, _, err = janus("export", "--run", "run", "--format", "transformers", "--out", "out")
    config = read_json("out/config.json")
    assert (code, config["pad_token_id"]) == (0, config["eos_token_id"]), err


@pytest.mark.parametrize("name", ["bart", "mbart50", "wordpiece", "pegasus"])
def test_a_tokenizer_of_a_models_folder_frames_texts_as_the_run_does(
    make_run: MakeRun, janus: Janus, name: str
) -> None:
    frameless(make_run, name, "post")
    assert janus("export", "run", "--format", "transformers", "--out", "out")[0] == 0
    tokenizer, engine = load("run").tokenizers.source, tokenizers.Tokenizer.from_file("out/tokenizer.json")
    for line in hf_folders.LINES:
        assert engine.encode(line).ids == [tokenizer.order[index] for index in [*tokenizer.encode([line])[0], EOS]]
    config = read_json("out/tokenizer_config.json")
    assert engine.token_to_id(config["pad_token"]) == tokenizer.order[PAD]
    assert "tokenizer_class" in config  # or else the type of the model decides


def test_what_the_decoder_of_a_marian_starts_with_once_it_is_trained_on_has_a_name(
    make_run: MakeRun, janus: Janus
) -> None:
    frameless(make_run, "marian", "post")
    assert janus("export", "run", "--format", "transformers", "--out", "out")[0] == 0
    name = read_json("out/tokenizer_config.json")["bos_token"]
    assert read_json("out/vocab.json")[name] == read_json("out/config.json")["decoder_start_token_id"]
    ends(janus("import", "out", "--run", "again"), 0)
    texts = [[result.text for result in load(run).translate(hf_folders.LINES)] for run in ("run", "again")]
    assert texts[0] == texts[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Recommended")  # sacremoses, which MarianTokenizer loads and does not use
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("name", ["bart", "mbart50", "wordpiece", "marian", "pegasus"])
def test_a_model_with_a_tokenizer_of_a_models_folder_generates_the_same_in_transformers(
    make_run: MakeRun, janus: Janus, name: str, norm: str
) -> None:
    transformers = pytest.importorskip("transformers")
    frameless(make_run, name, norm)
    assert janus("export", "run", "--format", "transformers", "--out", "out")[0] == 0
    lines, tokenizer = ["the man", "big dogs, and"], transformers.AutoTokenizer.from_pretrained("out")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained("out").eval()
    found = [theirs.generate(**tokenizer(line, return_tensors="pt"))[0] for line in lines]
    texts = [tokenizer.decode(row, skip_special_tokens=True).replace("\n", " ") for row in found]
    assert texts == [result.text for result in load("run").translate(lines)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        [], ["model.norm=pre", "model.positions=sinusoidal"], ["model.embedding_norm=true", "model.tie=none"],
        ["model.norm=pre", "model.embedding_norm=true", "model.activation=gelu"],
        ["tokenizer.joint=false", "model.tie=target", "model.positions=marian"],
        ["decoding.beam=1", "decoding.free_end=false", "decoding.max_extra=2"],
    ],
)  # fmt: skip
def test_any_ar_side_generates_the_same_in_transformers(make_run: MakeRun, janus: Janus, changes: list[str]) -> None:
    transformers = pytest.importorskip("transformers")
    limits = ["decoding.max_ratio=0", "decoding.max_extra=20", "decoding.free_end=true"]
    make_run("run", "janus", [*limits, *changes])
    assert janus("export", "run", "--format", "transformers", "--out", "out")[0] == 0
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained("out").eval()
    ours, lines = load("run"), ["abc de", "fgh a b c", "h"]
    for line, result in zip(lines, ours.translate(lines, mode="ar"), strict=True):
        ids = torch.tensor([[*ours.tokenizers.source.encode([line])[0], EOS]])
        with torch.inference_mode():
            row = theirs.generate(input_ids=ids, attention_mask=torch.ones_like(ids))[0].tolist()[1:]
        assert row[: row.index(EOS)] == result.outputs[0].tokens


@pytest.mark.slow
def test_samples_are_drawn_there_with_the_same_probabilities(make_run: MakeRun, janus: Janus) -> None:
    transformers = pytest.importorskip("transformers")
    cut = {"temperature": 0.7, "top_k": 9, "top_p": 0.8}
    changes = [f"decoding.{name}={value}" for name, value in cut.items()]
    make_run("run", "janus", [*changes, "decoding.max_ratio=0", "decoding.max_extra=20"])
    assert janus("export", "run", "--format", "transformers", "--out", "out")[0] == 0
    theirs, ours = transformers.AutoModelForSeq2SeqLM.from_pretrained("out").eval(), load("run")
    ids = torch.tensor([[*ours.tokenizers.source.encode(["abc de"])[0], EOS]])
    given = {"attention_mask": torch.ones_like(ids), "return_dict_in_generate": True, "output_scores": True}
    model, never = ours.generator.model, never_written(ours.plan.options)
    with torch.inference_mode():
        found = theirs.generate(input_ids=ids, **given)
        (states,) = model.decode(content(found.sequences), model.encode(ids, ids != PAD))
        scores, tokens = likeliest(log_probabilities(model, states, never) / cut["temperature"], 9, 0.8)
    drawn = torch.zeros(len(scores), ours.tokenizers.target.size)
    drawn.scatter_(1, tokens, scores.float().softmax(1))
    assert len(drawn) == len(found.scores) > 2
    for expected, step in zip(drawn[:-1], found.scores, strict=False):  # the last one may be forced
        torch.testing.assert_close(step[0].softmax(0)[: len(expected)], expected, atol=1e-5, rtol=0)
