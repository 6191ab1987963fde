"""Imported models of Hugging Face write what `generate` of transformers writes, and can be trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("tokenizers")

import hf_folders

from janus_cli.core.batch import EOS, MASK, PAD, UNK, pad
from janus_cli.core.generate import generate
from janus_cli.core.losses import cross_entropy
from janus_cli.core.stream import content
from janus_cli.data.batching import load_batch, noised
from janus_cli.data.hf import ABSENT, HuggingFace
from janus_cli.data.hf_folder import given_back
from janus_cli.data.prepared import open_prepared
from janus_cli.decoding.records import Records
from janus_cli.decoding.translate import load
from janus_cli.export import importing
from janus_cli.export.folder import read, read_weights
from janus_cli.export.importing import import_model
from janus_cli.recipe_load import load as load_recipe
from tests.helpers import Janus, edit_json, ends, read_json, sets, write_lines

Golden = dict[str, Any]


def golden(name: str, folder: Path) -> Golden:
    """Unpacks a committed model; returns lines and what transformers made of them."""
    found: Golden = read_json(hf_folders.GOLDEN / f"{name}.json")
    folder.mkdir()
    hf_folders.unpack(found["files"], folder)
    return found


@pytest.fixture
def bart(empty_folder: Path) -> Golden:
    """A tiny BART in the folder `model`, in a new working directory."""
    return golden("bart", Path("model"))


@pytest.mark.parametrize("name", hf_folders.CASES)
def test_an_imported_model_writes_what_transformers_writes(name: str, tmp_path: Path) -> None:
    found = golden(name, tmp_path / "model")
    run = import_model(tmp_path / "model", run=tmp_path / "run", languages=hf_folders.CASES[name][4])
    results = load(run).translate([*found["lines"], ""])
    assert [result.text for result in results] == [*found["outputs"], ""]
    assert [result.outputs[0].score for result in results[:-1]] == pytest.approx(found["scores"], abs=1e-5)
    if name != "mbart":  # they end at different places
        assert len({len(result.outputs[0].tokens) for result in results}) > 2


def test_it_is_a_run_like_any_other(janus: Janus, bart: Golden) -> None:
    """Decoding, another model trained from it, whose text begins as the model's does, and that one decoded."""
    assert janus("import", "model")[0] == 0
    for split in ("train", "valid", "test"):
        for side in ("src", "tgt"):
            Path(f"{split}.{side}").write_text(
                "".join(f"{line} {number}\n" for number, line in enumerate(bart["lines"]))
            )
    few = sets("training.updates=1", "training.validate_every=1", "data.max_tokens=46", "decoding.max_ratio=1")
    options = ("--objective", "janus", "--data-dir", ".", "--run", "runs/more", *few)
    code, _, err = janus("train", "--recipe", "runs/model/recipe.yaml", "--from", "runs/model", *options)
    assert code == 0, err
    assert "fresh: length_table" in err
    first = load("runs/model").tokenizers.target.encode(["a"])[0][0]
    assert load("runs/more").tokenizers.source.encode(["a"])[0][0] == first
    for mode in ("ar", "nar"):
        assert janus("decode", "--run", "runs/more", "--mode", mode, "--input", "test.src")[0] == 0
    assert janus("inspect", "runs/model")[0] == 0


def test_its_data_is_what_was_prepared_with_its_recipe(janus: Janus, bart: Golden) -> None:
    assert janus("import", "model")[0] == 0
    ends(janus("decode", "--run", "runs/model"), 3, "preprocess --recipe runs/model/recipe.yaml")
    for split in ("train", "valid", "test"):
        for side in ("src", "tgt"):
            write_lines(f"{split}.{side}", bart["lines"])
    assert janus("preprocess", "--recipe", "runs/model/recipe.yaml", "--data-dir", ".")[0] == 0
    assert janus("decode", "--run", "runs/model", "--out", "out")[0] == 0
    assert Path("out").read_text().splitlines() == bart["outputs"]
    ends(janus("distill", "--run", "runs/model", "--out", "data/distilled"), 0)
    assert Path("data/distilled/manifest.json").is_file()


@pytest.mark.parametrize(
    ("name", "languages"), [("bart", ()), ("mbart50", ("--source-language", "en_XX", "--target-language", "en_XX"))]
)
def test_plain_text_for_it_is_framed_once_an_example(
    janus: Janus, empty_folder: Path, name: str, languages: tuple[str, ...]
) -> None:
    """Packed lines have one frame, which noise leaves alone."""
    golden(name, Path("model"))
    assert janus("import", "model", *languages)[0] == 0
    Path("text.txt").write_text("the cook\nthe man\n" * 6)
    few = sets("data.task=denoising", "data.max_tokens=40", "tokenizer.reuse=runs/model", "denoising.permute=1")
    files = ("--train", "text.txt", "--valid", "text.txt", "--out", "prepared")
    ends(janus("preprocess", "--recipe", "runs/model/recipe.yaml", *files, *few), 0)
    recipe = load_recipe("runs/model/recipe.yaml", few[1::2])
    store = open_prepared(recipe, Path("prepared")).train
    (first,) = load("runs/model").tokenizers.target.begin
    batch = noised(load_batch(store, np.arange(len(store))), store, recipe, 0)
    assert len(store) < 12
    for rows, place in ((batch.target, 1), (batch.source, 0)):
        assert (rows[:, place] == first).all()
        assert (rows == first).sum() == len(store)


def test_plain_text_needs_one_frame_for_both_sides(janus: Janus, empty_folder: Path) -> None:
    golden("mbart50", Path("model"))
    assert janus("import", "model", "--source-language", "en_XX", "--target-language", "fr_XX")[0] == 0
    Path("text.txt").write_text("the cook sees the dogs\n" * 3)
    few = sets("data.task=denoising", "data.max_tokens=40", "tokenizer.reuse=runs/model")
    files = ("--train", "text.txt", "--valid", "text.txt", "--out", "prepared")
    code, _, err = janus("preprocess", "--recipe", "runs/model/recipe.yaml", *files, *few)
    assert (code, "en_XX" in err, "fr_XX" in err, Path("prepared").exists()) == (3, True, True, False), err


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "t5"}, "t5"), ({"activation_function": "gelu_new"}, "gelu_new"),
        ({"decoder_attention_heads": 4}, "decoder_attention_heads 4"), ({"d_model": "8"}, "config.json"),
        ({"max_position_embeddings": 4096}, "shape"), ({"vocab_size": 500}, "404"), ({"vocab_size": 400}, "404"),
        ({"encoder_layers": 2}, "encoder.layers.1"), ({"decoder_layers": 1}, "no place"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_is_refused(janus: Janus, bart: Golden, changes: dict[str, Any], named: str) -> None:
    edit_json("model/config.json", **changes)
    code, _, err = janus("import", "model")
    assert (code, named in err, Path("runs").exists()) == (3, True, False), err


@pytest.mark.parametrize(
    ("name", "file", "changes", "named"),
    [
        ("bart", "config.json", {"model_type": ["bart"]}, "model_type"),
        ("bart", "config.json", {"d_model": 8.0}, "d_model"),
        ("bart", "config.json", {"vocab_size": "404"}, "vocab_size"),
        ("bart", "config.json", {"bos_token_id": None}, "bos_token_id"),
        ("bart", "config.json", {"bos_token_id": 404}, "bos_token_id"),
        ("mbart", "config.json", {"eos_token_id": None}, "eos_token_id"),
        ("bart", "config.json", {"activation_function": None}, "activation_function"),
        ("bart", "config.json", {"dropout": float("nan")}, "dropout"),
        ("bart", "config.json", {"scale_embedding": "no"}, "scale_embedding"),
        ("bart", "generation_config.json", {"forced_bos_token_id": 404}, "forced_bos_token_id"),
        ("bart", "generation_config.json", {"decoder_start_token_id": 404}, "decoder_start_token_id"),
        ("bart", "generation_config.json", {"decoder_start_token_id": "2"}, "decoder_start_token_id"),
        ("bart", "generation_config.json", {"early_stopping": "yes"}, "early_stopping"),
        ("bart", "generation_config.json", {"min_length": "4"}, "min_length"),
        ("bart", "generation_config.json", {"length_penalty": "x"}, "length_penalty"),
        ("bart", "generation_config.json", {"bad_words_ids": [3]}, "bad_words_ids"),
        ("mbart", "tokenizer_config.json", {"src_lang": 3}, "src_lang"),
    ],
)  # fmt: skip
def test_mistakes_in_its_files_are_named(
    janus: Janus, empty_folder: Path, name: str, file: str, changes: dict[str, Any], named: str
) -> None:
    golden(name, Path("model"))
    edit_json(Path("model", file), **changes)
    ends(janus("import", "model", "--dry-run"), 3, named)


def test_what_its_decoder_starts_with_must_be_told(janus: Janus, bart: Golden) -> None:
    for file in ("model/config.json", "model/generation_config.json"):
        edit_json(file, decoder_start_token_id=None)
    ends(janus("import", "model"), 3, "decoder_start_token_id")


Change = Callable[[dict[str, torch.Tensor]], object]


def rewritten(change: Change, file: Path) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda weights: weights["model.shared.weight"][7].fill_(float("nan")), "finite"),
        (lambda weights: weights["final_logits_bias"].fill_(float("-inf")), "finite"),
        (lambda weights: weights.update({SOME: weights[SOME].to(torch.int8)}), "I8"),
        (lambda weights: weights.update({SOME: weights[SOME].to(torch.float8_e4m3fn)}), "F8"),
        (lambda weights: weights.update(final_logits_bias=torch.zeros(1, 300)), "final_logits_bias"),
        (lambda weights: weights.update({"shared.weight": torch.zeros(404, 8)}), "twice"),
        (lambda weights: weights.pop("model.encoder.embed_positions.weight"), "embed_positions"),
        (lambda weights: weights.pop("final_logits_bias"), ""),
    ],
)
def test_damaged_weights_are_refused(janus: Janus, bart: Golden, change: Change, named: str) -> None:
    rewritten(change, Path("model/model.safetensors"))
    ends(janus("import", "model", "--dry-run"), 3 if named else 0, named)


SOME = "model.encoder.layers.0.fc1.weight"


def test_only_the_weights_that_transformers_would_read_are_read(janus: Janus, bart: Golden) -> None:
    """model.safetensors and nothing beside it; without it the parts that an index lists, all of them."""
    assert janus("import", "model", "--run", "whole")[0] == 0
    weights = load_file("model/model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, "model/model.fp32.safetensors")
    assert janus("import", "model", "--run", "beside")[0] == 0
    assert Path("beside/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()

    Path("model/model.safetensors").unlink()
    ends(janus("import", "model", "--run", "none"), 3, "model.safetensors.index.json")
    for number in range(2):
        part = {name: weights[name] for name in sorted(weights)[number::2]}
        save_file(part, f"model/model-0000{number + 1}-of-00002.safetensors")
    places = {name: f"model-0000{number % 2 + 1}-of-00002.safetensors" for number, name in enumerate(sorted(weights))}
    Path("model/model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert janus("import", "model", "--run", "parts")[0] == 0
    assert Path("parts/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    Path("model/model-00002-of-00002.safetensors").unlink()
    ends(janus("import", "model", "--run", "less"), 3, "model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    ("missing", "named"),
    [("config.json", "config.json"), ("model.safetensors", "from_pretrained('model')"), ("vocab.json", "tokenizer")],
)
def test_a_folder_that_is_not_whole_is_refused(janus: Janus, bart: Golden, missing: str, named: str) -> None:
    Path("model", missing).rename("model/pytorch_model.bin")
    code, _, err = janus("import", "model")
    assert (code, named.lower() in err.lower()) == (3, True), err


def test_the_languages_of_mbart_must_be_known_and_what_has_no_knob_is_said(janus: Janus, empty_folder: Path) -> None:
    golden("mbart", Path("model"))
    edit_json("model/generation_config.json", repetition_penalty=1.2)
    ends(janus("import", "model", "--source-language", "xx_XX", "--target-language", "fr_XX"), 2, "xx_XX", "fr_XX")
    edit_json("model/generation_config.json", bad_words_ids=[[7], [8, 9]])
    code, _, err = janus("import", "model", "--source-language", "de_DE", "--target-language", "fr_XX")
    assert (code, "repetition_penalty 1.2" in err, "bad_words_ids" in err) == (0, True, True)
    shutil.rmtree("runs/model/checkpoints", ignore_errors=True)
    assert janus("import", "model", "--source-language", "de_DE", "--target-language", "fr_XX")[0] == 2  # it is there


@pytest.mark.parametrize("name", ["a", "</s>", "<s>", "<mask>"])
def test_a_token_that_names_no_language_is_refused(janus: Janus, empty_folder: Path, name: str) -> None:
    golden("mbart", Path("model"))
    ends(janus("import", "model", "--source-language", name, "--target-language", "fr_XX"), 2, "fr_XX")


def test_a_model_may_list_languages_of_its_own(janus: Janus, empty_folder: Path) -> None:
    golden("mbart", Path("model"))
    edit_json("model/tokenizer_config.json", additional_special_tokens=["▁do"])
    ends(janus("import", "model", "--source-language", "▁do", "--target-language", "fr_XX", "--dry-run"), 0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"eos_token_id": [2, 7]}, "eos_token_id"), ({"stop_strings": ["."]}, "stop_strings"),
        ({"max_time": 3.0}, "max_time"), ({"do_sample": True, "min_p": 0.1}, "min_p"),
        ({"of_tomorrow": 1}, "of_tomorrow"),
        ({"forced_eos_token_id": 7}, "forced_eos_token_id"), ({"top_k": 50, "eos_token_id": [2]}, ""),
        ({"repetition_penalty": 1.0, "guidance_scale": None, "output_scores": True, "max_time": None}, ""),
    ],
)  # fmt: skip
def test_settings_that_are_not_followed_are_named(
    janus: Janus, bart: Golden, settings: dict[str, Any], named: str
) -> None:
    edit_json("model/generation_config.json", **settings)
    code, _, err = janus("import", "model", "--dry-run")
    assert (code, named in err, "has no knob" in err) == (0, True, bool(named)), err


def test_how_it_generates_is_told_by_the_recipe(tmp_path: Path) -> None:
    golden("bart", tmp_path / "model")
    decoding = load_recipe(str(import_model(tmp_path / "model", run=tmp_path / "run") / "recipe.yaml")).decoding
    assert (decoding.beam, decoding.length_penalty, decoding.no_repeat_ngram) == (4, 2.0, 3)
    # Lengths of transformers count the token that the decoder starts with; ours count neither that nor the EOS.
    assert (decoding.min_length, decoding.min_length + decoding.max_extra, decoding.free_end) == (5, 22, True)


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({"min_length": 10, "min_new_tokens": 3, "max_length": 24}, 3, 22),
        ({"min_length": 12, "max_length": 8}, 6, 6),
    ],
)
def test_the_limits_of_lengths_are_those_that_transformers_follows(
    tmp_path: Path, settings: dict[str, Any], least: int, most: int
) -> None:
    golden("bart", tmp_path / "model")
    edit_json(tmp_path / "model/generation_config.json", **settings)
    decoding = load_recipe(str(import_model(tmp_path / "model", run=tmp_path / "run") / "recipe.yaml")).decoding
    assert (decoding.min_length, decoding.min_length + decoding.max_extra) == (least, most)


def with_engine(folder: Path, changes: dict[str, Any]) -> None:
    """Writes the byte-level files of a folder as a tokenizer.json, with changes to it."""
    source = load(import_model(folder, run=folder.parent / "first")).tokenizers.source
    assert isinstance(source, HuggingFace)
    engine = json.loads(given_back(source, source)["tokenizer.json"])
    (folder / "tokenizer.json").write_text(json.dumps({**engine, **changes}), encoding="utf-8")


END = {"id": "</s>", "ids": [2], "tokens": ["</s>"]}
ENDING = {
    "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}},
    {"SpecialToken": {"id": "</s>", "type_id": 0}}], "pair": [], "special_tokens": {"</s>": END},
}  # fmt: skip


@pytest.mark.parametrize(("around", "begins", "said"), [(ENDING, False, False), (None, True, True)])
def test_texts_begin_as_the_tokenizer_has_it(janus: Janus, bart: Golden, around: Any, begins: bool, said: bool) -> None:
    """Without <s> if it puts none; a text without </s> is no text of janus's models."""
    with_engine(Path("model"), {"post_processor": around})
    code, _, err = janus("import", "model")
    source = load(Path("runs/model")).tokenizers.source
    assert (code, bool(source.begin), "around a text" in err) == (0, begins, said), err


def test_what_the_tokenizers_other_file_overrules_is_said(janus: Janus, bart: Golden) -> None:
    with_engine(Path("model"), {})
    more = {"add_prefix_space": True, "additional_special_tokens": ["<hl>"]}
    edit_json("model/tokenizer_config.json", **more)
    ends(janus("import", "model", "--dry-run"), 0, "add_prefix_space True", "<hl>")


def test_a_model_without_an_unknown_token_never_writes_it(tmp_path: Path) -> None:
    golden("bart", tmp_path / "model")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (tmp_path / "model" / name).is_file():
            edit_json(tmp_path / "model" / name, unk_token="<nothing>")
    run = import_model(tmp_path / "model", run=tmp_path / "run")
    assert load(run).tokenizers.target.order[UNK] == ABSENT
    assert load_recipe(str(run / "recipe.yaml")).decoding.unk == "ban"


def test_a_model_whose_texts_do_not_end_is_refused(janus: Janus, bart: Golden) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (Path("model") / name).is_file():
            edit_json(Path("model", name), eos_token="<nothing>", sep_token="<nothing>")
    edit_json("model/config.json", eos_token_id=7)
    ends(janus("import", "model", "--dry-run"), 3, "no token ends a text")


def test_tables_that_should_be_one_and_differ_are_refused(janus: Janus, bart: Golden) -> None:
    rewritten(lambda weights: weights.update({"lm_head.weight": weights["model.shared.weight"] + 1}), MODEL)
    ends(janus("import", "model", "--dry-run"), 3, "lm_head.weight differ")
    rewritten(lambda weights: weights.update({"lm_head.weight": weights["model.shared.weight"].clone()}), MODEL)
    assert janus("import", "model", "--dry-run")[0] == 0


MODEL = Path("model/model.safetensors")


def test_decoding_with_it_goes_on_after_a_stop(janus: Janus, bart: Golden) -> None:
    assert janus("import", "model")[0] == 0
    write_lines("lines.txt", bart["lines"] * 20)
    command = ("decode", "--run", "model", "--input", "lines.txt", "--out", "out.txt", "--batch-sentences", "4")
    assert janus(*command)[0] == 0
    whole = Path("out.txt").read_bytes()
    assert whole.decode() == "".join(f"{line}\n" for line in bart["outputs"] * 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("janus_cli.decoding.records.Records.add", stop_after_the_first(Records.add))
        assert janus(*command, "--force")[0] == 130
    ends(janus(*command, "--resume"), 0, "resuming after")
    assert Path("out.txt").read_bytes() == whole


def stop_after_the_first(add: Callable[..., None]) -> Callable[..., None]:
    """As `add`, with a Ctrl-C in its second call."""
    calls = []

    def stopping(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        add(*arguments)

    return stopping


@pytest.mark.parametrize(
    ("banned", "end"), [({"suppress_tokens": [7, 2]}, {2}), ({"bad_words_ids": [[7], [1], [2]]}, set[int]())], ids=str
)
def test_tokens_that_are_never_to_be_written_are_not_and_keep_their_probability(
    tmp_path: Path, banned: dict[str, Any], end: set[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of bad words, transformers leaves out EOS; suppressed, it ends no output before the limit."""
    golden("bart", tmp_path / "model")
    edit_json(tmp_path / "model/generation_config.json", forced_eos_token_id=None, **banned)
    run = import_model(tmp_path / "model", run=tmp_path / "run")
    order = load(run).tokenizers.target.order
    assert {order[ours] for ours in load_recipe(str(run / "recipe.yaml")).decoding.unwritten} == {
        1,
        7,
        order[MASK],
    } | end
    assert "has no knob" not in capsys.readouterr().err


def test_a_bias_that_forbids_a_token_leaves_the_loss_of_training_finite(tmp_path: Path) -> None:
    golden("bart", tmp_path / "model")
    order = load(import_model(tmp_path / "model", run=tmp_path / "run")).tokenizers.target.order
    weights, _ = read_weights(tmp_path / "model")
    weights["final_logits_bias"][0, 1] = -1e9
    config, _ = read(tmp_path / "model")
    model = importing.transformer(weights, config, (order, order), config["eos_token_id"], 0, "model")
    states, gold = torch.zeros(1, model.knobs.width), torch.tensor([EOS])
    assert model.output_bias is not None
    assert 0 < cross_entropy(states, model.output_weight, gold, 0.1, model.output_bias) < 10
    assert model.logits(states).softmax(1)[0, PAD] < 1e-30


ROWS = 60
BART: dict[str, Any] = {"forced_bos_token_id": 0}
MARIAN: dict[str, Any] = {"pad_token_id": 59, "decoder_start_token_id": 59, "eos_token_id": 0, "forced_eos_token_id": 0}
MODELS: list[tuple[str, dict[str, Any], tuple[int | None, int | None]]] = [
    ("bart", {**BART, "scale_embedding": True, "activation_function": "relu"}, (None, None)),
    ("bart", {"tie_word_embeddings": False, "activation_function": "swish"}, (None, None)),
    ("mbart", {"decoder_start_token_id": 2, "forced_bos_token_id": 51, "scale_embedding": True}, (50, 51)),
    ("mbart", {"decoder_start_token_id": 51, "activation_function": "relu"}, (50, 51)),
    ("marian", {**MARIAN, "scale_embedding": True, "activation_function": "swish"}, (None, None)),
    ("marian", {**MARIAN, "share_encoder_decoder_embeddings": False}, (None, None)),
    ("pegasus", {}, (None, None)),
]
GENERATION: list[dict[str, Any]] = [
    {"max_length": 24},
    {"num_beams": 4, "max_length": 18},
    {"num_beams": 4, "max_length": 18, "early_stopping": True, "length_penalty": 2.0},
    {"num_beams": 3, "max_length": 22, "early_stopping": "never", "length_penalty": 0.5},
    {"num_beams": 4, "max_length": 16, "min_length": 6, "no_repeat_ngram_size": 2},
    {"max_length": 6},
    {"num_beams": 3, "max_length": 5, "num_return_sequences": 3},
    {"num_beams": 5, "num_return_sequences": 3, "max_new_tokens": 12, "early_stopping": True, "length_penalty": 0.0},
]


def random_model(kind: str, config: dict[str, Any], folder: Path) -> Any:
    """A random model of transformers, saved and loaded again, whose outputs end; <pad> and <mask> are unlikely."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    shape = {**hf_folders.SHAPE, "d_model": 16, "encoder_layers": 2, "vocab_size": ROWS, **config}
    made = transformers.AutoModelForSeq2SeqLM.from_config(transformers.AutoConfig.for_model(kind, **shape))
    for name, weight in made.named_parameters():
        if weight.dim() == 1:
            torch.nn.init.normal_(weight, float("norm" in name and name.endswith("weight")), 0.3)
    made.final_logits_bias.normal_(0, 0.5)
    made.final_logits_bias[0, made.config.eos_token_id] += 3.0
    made.final_logits_bias[0, [made.config.pad_token_id, ROWS - 2]] = hf_folders.UNLIKELY
    made.generation_config.forced_bos_token_id = config.get("forced_bos_token_id")
    made.save_pretrained(folder)
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "config", "languages"), MODELS)
def test_logits_and_outputs_are_those_of_transformers(
    tmp_path: Path, kind: str, config: dict[str, Any], languages: tuple[int | None, int | None]
) -> None:
    theirs = random_model(kind, config, tmp_path)
    about, settings = read(tmp_path)
    special = [theirs.config.pad_token_id, 3, -1, theirs.config.eos_token_id, ROWS - 2]
    order = [*special, *(index for index in range(ROWS) if index not in special)]
    frame = importing.frame_of(about, settings, languages)
    suffix = 0 if frame.suffix is None else order.index(frame.suffix)
    ours = importing.transformer(read_weights(tmp_path)[0], about, (order, order), frame.start, suffix, str(tmp_path))

    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 20, (6,), generator=draw).tolist()
    texts = [torch.randint(6, ROWS - 12, (length,), generator=draw).tolist() for length in lengths]
    before, after = ([] if each is None else [each] for each in (frame.source, frame.suffix))
    rows = [[*before, *text, theirs.config.eos_token_id, *after] for text in texts]
    padded = torch.tensor([row + [theirs.config.pad_token_id] * (25 - len(row)) for row in rows])
    real = (torch.arange(25) < torch.tensor([[len(row)] for row in rows])).long()
    source = pad([[*map(order.index, [*before, *text]), EOS] for text in texts])
    begin = [] if frame.target is None else [frame.target]
    target = torch.tensor([[frame.start, *begin, *range(7, 17)]] * 6)
    written = pad([[2, *map(order.index, [*begin, *range(7, 17)]), EOS]] * 6)
    writable = [index for index, their in enumerate(order) if index not in (PAD, 2, 4)]
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        theirs.to(dtype), ours.to(dtype)
        with torch.inference_mode():
            expected = theirs(input_ids=padded, attention_mask=real, decoder_input_ids=target).logits
            found = ours.logits(ours.decode(content(written), ours.encode(source, source != PAD)))
        wanted = expected[..., [order[index] for index in writable]]
        torch.testing.assert_close(found[..., writable], wanted, rtol=0, atol=tolerance)

    theirs.float(), ours.float()
    first = 0 if frame.first is None else order.index(frame.first)
    for changes in GENERATION:
        with torch.inference_mode():
            found = theirs.generate(
                input_ids=padded, attention_mask=real, return_dict_in_generate=True, output_scores=True,
                output_logits=True, **changes
            )  # fmt: skip
        options = replace(
            importing.decoding_knobs({**settings, **changes}, ours.knobs.max_length), first_token=first,
            unwritten=importing.unwritten(settings, order),
        )  # fmt: skip
        outputs = [output for each in generate(ours, source, "ar", options, "content") for output in each]
        sequences = found.sequences.tolist()
        ends = [row[1:].index(theirs.config.eos_token_id) + 1 for row in sequences]
        assert [[order[index] for index in output.tokens] for output in outputs] == [
            row[1:end] for row, end in zip(sequences, ends, strict=True)
        ], changes
        for output, sure, end in zip(outputs, their_logps(theirs, found), ends, strict=True):
            assert output.logps == pytest.approx(sure[:end].tolist(), abs=1e-5), changes
        if options.beam > 1:
            assert [output.score for output in outputs] == pytest.approx(found.sequences_scores.tolist(), abs=1e-5)


def their_logps(model: Any, found: Any) -> torch.Tensor:
    """The log-probability of each token that `generate` wrote, 0 where it was forced; (N, T)."""
    if "beam_indices" in found:
        written: torch.Tensor = model.compute_transition_scores(found.sequences, found.scores, found.beam_indices)
        return written
    forced = [scores.isneginf().sum(1, keepdim=True) == ROWS - 1 for scores in found.scores]
    steps = zip(found.scores, found.logits, forced, strict=True)
    logps = torch.stack([torch.where(given, scores, logits.log_softmax(1)) for scores, logits, given in steps], dim=1)
    return logps.gather(2, found.sequences[:, 1:, None])[..., 0]
