"""The shipped recipes say what their papers say, every knob is explained, and what objectives' knobs do themselves."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from janus_cli import recipe_load
from janus_cli.commands.recipes import explain
from janus_cli.core.knobs import OBJECTIVES, JanusObjective, Noise
from janus_cli.errors import UsageError
from janus_cli.recipe import Recipe

_ROOT = Path(__file__).parents[1]
_NAMES = [
    "cnndm", "coqa", "demo", "dialogsum", "e2e_nlg", "gigaword", "iwslt14", "msnews", "msqg", "multi30k", "news_deen",
    "personachat", "pretrain_base", "pretrain_small", "squad_qg", "squad_qg_glge", "tatoeba_deen", "translit_enru",
    "wmt14_ende", "wmt16_enro", "xsum",
]  # fmt: skip
_FETCHED = ("multi30k", "translit_enru")


def test_every_recipe_file_is_known() -> None:
    assert sorted(file.name for file in (_ROOT / "recipes").rglob("*")) == [f"{name}.yaml" for name in _NAMES]
    assert list(recipe_load.available()) == _NAMES


@pytest.mark.parametrize("name", _NAMES)
def test_every_recipe_loads_with_every_objective(name: str) -> None:
    own = recipe_load.load(name)
    assert (own.name, bool(own.about)) == (name, True)
    for objective in OBJECTIVES:
        recipe = recipe_load.load(name, objective=objective)
        assert recipe.objective.name == objective
        expected = own.plain() | {"objective": recipe.plain()["objective"]}
        for section, values in recipe.objective.elsewhere.items():
            expected[section] |= values
        assert expected == recipe.plain()


@pytest.mark.parametrize("name", _NAMES)
def test_every_recipe_shows_its_commands_and_where_the_text_is(name: str) -> None:
    head = recipe_load.available()[name].read_text(encoding="utf-8").split("\nname:")[0]
    assert all(line.startswith("#") for line in head.split("\n"))
    option = "" if name == "demo" else f" --recipe {name}"
    for command in (f"janus preprocess{option}", f"janus train{option}", "janus decode", "janus score"):
        assert command in " ".join(head.split())
    data = recipe_load.load(name).data
    assert data.synthetic or data.notes
    assert all((download.sha256 is not None) == (name in _FETCHED) for download in data.downloads)
    if name in _FETCHED:  # of one commit, whose bytes never change
        assert all(re.search(r"/[0-9a-f]{40}/", download.url) for download in data.downloads)


@pytest.mark.parametrize(
    "name", ["cnndm", "gigaword", "xsum", "msnews", "squad_qg_glge", "msqg", "coqa", "personachat"]
)
def test_the_tasks_of_glge_have_the_settings_of_its_prophetnet_base(name: str) -> None:
    """train_prophetnet_base.sh and test_prophetnet_base.sh of GLGE_baselines."""
    recipe = recipe_load.load(name)
    training, decoding, model = recipe.training, recipe.decoding, recipe.model
    if name in ("msqg", "coqa", "personachat"):
        adam, tokens = (0.9, 0.98, 5e-4, 4000, 0.0, 0.0), 64 * 2048
    else:
        adam, tokens = (0.9, 0.999, 2e-4, 1000, 0.01, 0.1), {"cnndm": 512 * 512, "gigaword": 6000}.get(name, 8 * 1300)
    found = (
        training.beta1,
        training.beta2,
        training.learning_rate,
        training.warmup,
        training.weight_decay,
        training.clip,
    )
    assert found == adam
    assert training.batch_tokens * training.accumulate == tokens
    assert training.schedule == "inverse_sqrt"
    assert (model.dropout, model.attention_dropout, recipe.objective.label_smoothing) == (0.1, 0.1, 0.1)
    searched = (
        decoding.beam,
        decoding.length_penalty,
        decoding.min_length,
        decoding.max_ratio,
        decoding.no_repeat_ngram,
    )
    assert searched == ((5, 1.2, 45, 0, 3) if name == "cnndm" else (4, 1.0, 0, 0, 3))
    assert recipe.data.valid == "dev"
    assert recipe.data.truncate_source
    assert recipe.data.source_limit == 510
    pretrained = recipe_load.load("pretrain_base")
    assert (model, recipe.tokenizer) == (pretrained.model, pretrained.tokenizer)  # so that a run can start from it


_BASE = {"encoder_layers": 6, "decoder_layers": 6, "width": 512, "positions": "learned", "init": "bert", "tie": "all"}
_ADAM = {"beta1": 0.9, "beta2": 0.98, "schedule": "inverse_sqrt", "warmup": 10_000}


@pytest.mark.parametrize(
    ("name", "model", "training", "tokens", "length_beam"),
    [
        ("iwslt14", {"feedforward": 1024, "heads": 4, "dropout": 0.3},
         {"learning_rate": 5e-4, "weight_decay": 1e-4, "updates": 200_000}, 8192, 3),
        ("wmt14_ende", {"feedforward": 2048, "heads": 8, "dropout": 0.2},
         {"learning_rate": 7e-4, "weight_decay": 0.01}, 131_072, 5),
        ("wmt16_enro", {"feedforward": 2048, "heads": 8, "dropout": 0.3},
         {"learning_rate": 7e-4, "weight_decay": 0.01}, 32_768, 5),
    ],
)  # fmt: skip
def test_settings_of_the_paper(
    name: str, model: dict[str, Any], training: dict[str, Any], tokens: int, length_beam: int
) -> None:
    recipe = recipe_load.load(name)
    assert (_BASE | model).items() <= recipe.plain()["model"].items()
    assert (_ADAM | training).items() <= recipe.plain()["training"].items()
    assert recipe.training.batch_tokens * recipe.training.accumulate == tokens
    assert recipe.objective == JanusObjective(
        ar_stream="query", noise=Noise(spans=1.0, span_mean=2.0, span_budget=0.7), label_smoothing=0.1,
        ar=1.0, nar=0.5, aux=0.5, length=0.1, kl_ar_aux=3.0, kl_nar_aux=1.0, kl_ar_nar=1.0,
    )  # fmt: skip
    assert (recipe.decoding.beam, recipe.decoding.iters, recipe.decoding.length_beam) == (5, 11, length_beam)
    assert (recipe.decoding.rerank, recipe.decoding.keep_lengths) == ("nar", 0)


def test_an_objective_brings_what_its_system_changes_elsewhere(tmp_path: Path) -> None:
    """A recipe that names the knob and --set have the last word; other objectives change nothing."""

    def knobs(recipe: Recipe) -> tuple[object, ...]:
        model = recipe.model
        return model.causal_attention, model.embedding, model.embedding_scale, recipe.decoding.update

    whole, plain = (True, "concat", False, "all"), (False, "sum", True, "hidden")
    assert knobs(recipe_load.load("demo", objective="cmlmc")) == whole
    assert knobs(recipe_load.load("demo", ["objective.name=cmlmc", "objective={name: cmlmc}"])) == whole
    assert knobs(recipe_load.load("demo")) == knobs(recipe_load.load("demo", objective="cemat")) == plain
    changes = ["model.causal_attention=false", "decoding.update=hidden"]
    assert knobs(recipe_load.load("demo", changes, "cmlmc")) == (False, "concat", False, "hidden")
    file = tmp_path / "own.yaml"
    file.write_text("name: own\nmodel: {embedding: sum}\nobjective: {name: cmlmc}\n", encoding="utf-8")
    own = recipe_load.load(str(file))
    assert knobs(own) == (True, "sum", False, "all")
    file.write_text(recipe_load.dump(own), encoding="utf-8")
    assert recipe_load.load(str(file)) == own


def _keys(value: object, key: str = "") -> list[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for name, each in items for path in _keys(each, f"{key}.{name}".strip("."))] or [key]


@pytest.mark.parametrize(("name", "hidden"), [("pretrain_base", 0.5 * 0.3), ("pretrain_small", 0.5)])
def test_pretraining_has_the_weights_of_bart_janus(name: str, hidden: float) -> None:
    """1/2 (CE_AR + CE_NAR + CE_AUX) + 1/2 (KLs(AR, AUX) + KLs(NAR, AUX)), of all tokens, of which 30 % are hidden."""
    recipe = recipe_load.load(name)
    weights = dict.fromkeys(("nar", "aux", "kl_ar_aux", "kl_nar_aux"), hidden)
    weights |= {"ar": 0.5, "kl_ar_nar": 0.0, "length": 0.0}
    assert (weights | {"label_smoothing": 0.0}).items() <= recipe.plain()["objective"].items()
    assert recipe.plain()["denoising"] == {"share": 0.3, "span_mean": 3.0, "visible": 0.5, "permute": 0.0}
    assert recipe.data.pack
    if name == "pretrain_base":
        model = {"width": 768, "feedforward": 3072, "heads": 12, "encoder_layers": 6, "activation": "gelu"}
        adam = {"learning_rate": 1e-4, "schedule": "linear", "warmup": 10_000, "beta2": 0.98, "weight_decay": 0.01}
        assert model.items() <= recipe.plain()["model"].items()
        assert adam.items() <= recipe.plain()["training"].items()
        assert 8 * recipe.training.accumulate * recipe.training.batch_tokens == 384 * 512
    else:  # so that its weights fit
        other = recipe_load.load("squad_qg")
        assert replace(recipe.model, dropout=other.model.dropout) == other.model


def test_every_knob_is_explained_and_the_document_is_up_to_date() -> None:
    document = explain(markdown=True)
    written = (_ROOT / "docs" / "knobs.md").read_text(encoding="utf-8")
    assert written == document, "write it again: janus recipes explain --markdown > docs/knobs.md"
    for name in OBJECTIVES:
        every = _keys(recipe_load.load("demo", ["data.downloads=[{url: x, save_as: x}]"], name).plain())
        for text in (document, explain(objective=name)):
            explained = set(re.findall(r"^(?:  |\| `)([a-z_.0-9]+)(?:: |` \|)", text, re.MULTILINE))
            assert {*every} - explained == {"objective.name"}


@pytest.mark.parametrize(
    ("key", "objective", "words"),
    [
        (
            "training.learning_rate",
            None,
            ["learning_rate: 0.0005  (number, more than 0 and at most 1e+308)\n", "\n[J] JANUS"],
        ),
        ("model.tie", None, ["(all or target or none)"]),
        ("decoding.rerank", None, ["(mode nar)"]),
        ("decoding.max_ratio", None, ["mask-predict writes", "bang", "or min_length + max_extra"]),
        ("objective.noise", "mpnet", ["noise: uniform: 0.5, full: 0.5", "objective.noise.spans: 0.0"]),
        ("objective.kl_start", None, ["objective, name: janus"]),
        ("data.clean", None, ["clean: []  (list of strip_tags, "]),
        ("data.downloads", None, ["data.downloads.0.url: required  (text)"]),
    ],
)
def test_a_knob_is_explained(key: str, objective: str | None, words: list[str]) -> None:
    text = explain([key], objective)
    assert all(each in text for each in words)
    keys = re.findall(r"^  ([a-z_.0-9]+): ", text, re.MULTILINE)
    assert keys
    assert all(f"{each}.".startswith(f"{key}.") for each in keys)


def test_an_unknown_knob_is_guessed() -> None:
    for key, objective, words in (
        ("learning_rate", None, "no knob named learning_rate, did you mean training.learning_rate[?]"),
        ("training.updtes", None, "did you mean training.updates[?]"),
        ("training.lr", None, "did you mean training.learning_rate[?]"),
        ("lr", None, "did you mean training.learning_rate[?]"),
        ("decoding.lp", None, "did you mean decoding.length_penalty[?]"),
        ("objective.kl_start", "ar", "no knob named objective.kl_start"),
        (None, "jnus", "did you mean janus[?]"),
    ):
        with pytest.raises(UsageError, match=words):
            explain([key] if key else [], objective)


def test_several_knobs_are_explained_once_in_the_order_of_the_document() -> None:
    text = explain(["training.updates", "decoding.beam", "training"])
    assert text.count("  training.updates: ") == text.count("  decoding.beam: ") == 1
    assert "  training.clip: " in text
    assert "decoding.iters" not in text
    with pytest.raises(UsageError, match=r"no knob named decoding\.baem, did you mean decoding\.beam\?"):
        explain(["training.updates", "decoding.baem"])


def test_a_task_that_is_not_translation_has_no_filter_of_ratios_unless_it_is_set() -> None:
    def ratio(*changes: str) -> float | None:
        return recipe_load.load("multi30k", changes).data.max_ratio

    assert ratio() == ratio("data.task=translation") == 3.0
    assert ratio("data.task=generation") is None
    assert ratio("data.task=generation", "data.max_ratio=9") == 9.0
    assert ratio("data.max_ratio=null") is None


def test_source_and_target_have_limits_of_their_own() -> None:
    def limits(*changes: str) -> tuple[int, int, int]:
        recipe = recipe_load.load("demo", ["model.max_length=100", "data.max_tokens=60", *changes])
        return recipe.data.source_limit, recipe.data.target_limit, recipe.reads

    assert limits() == (60, 60, 99)
    assert limits("data.max_source_tokens=99", "data.max_target_tokens=9") == (99, 9, 99)
    assert limits("data.truncate_source=true") == (60, 60, 60)
    assert limits("data.truncate_source=true", "data.max_source_tokens=7") == (7, 60, 7)
