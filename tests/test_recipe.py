"""The knobs: what fits together, what is refused, and that every shipped recipe says what its paper says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from janus_cli import recipe_load
from janus_cli.commands.recipes import explain
from janus_cli.core.knobs import OBJECTIVES, ArObjective, CmlmObjective, JanusObjective, Noise
from janus_cli.errors import UsageError
from janus_cli.recipe import CHECKED, Recipe

_FOLDER = Path(__file__).parents[1] / "recipes"
_NAMES = ["demo", "iwslt14", "multi30k", "news_deen", "tatoeba_deen", "wmt14_ende", "wmt16_enro"]


def test_every_recipe_file_is_known() -> None:
    files = sorted(file for file in _FOLDER.rglob("*") if file.is_file())
    assert [file.relative_to(_FOLDER).as_posix() for file in files] == [f"{name}.yaml" for name in _NAMES]
    assert list(recipe_load.available()) == _NAMES


@pytest.mark.parametrize("objective", [None, *OBJECTIVES])
@pytest.mark.parametrize("name", _NAMES)
def test_every_recipe_loads_with_every_objective(name: str, objective: str | None) -> None:
    recipe = recipe_load.load(name, objective=objective)
    assert recipe.name == name
    assert recipe.about
    assert objective in (None, recipe.objective.name)
    expected = recipe_load.load(name).plain() | {"objective": recipe.plain()["objective"]}
    for section, values in recipe.objective.elsewhere.items():
        expected[section] |= values
    assert expected == recipe.plain()


@pytest.mark.parametrize("name", _NAMES)
def test_every_recipe_shows_its_commands_and_where_the_text_is(name: str) -> None:
    head = (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8").split("\nname:")[0]
    assert all(line.startswith("#") for line in head.split("\n"))
    option = "" if name == "demo" else f" --recipe {name}"
    words = " ".join(head.split())
    for command in (f"janus preprocess{option}", f"janus train{option}", "janus decode", "janus score"):
        assert command in words
    data = recipe_load.load(name).data
    assert (data.synthetic is not None) or data.notes
    assert all(download.sha256 is None for download in data.downloads)


_BASE = {"encoder_layers": 6, "decoder_layers": 6, "width": 512, "positions": "learned", "init": "bert", "tie": "all"}


@pytest.mark.parametrize(
    ("name", "model", "training", "tokens"),
    [
        ("iwslt14", {"feedforward": 1024, "heads": 4, "dropout": 0.3},
         {"learning_rate": 5e-4, "weight_decay": 1e-4, "updates": 200_000}, 8192),
        ("wmt14_ende", {"feedforward": 2048, "heads": 8, "dropout": 0.2},
         {"learning_rate": 7e-4, "weight_decay": 0.01}, 131_072),
        ("wmt16_enro", {"feedforward": 2048, "heads": 8, "dropout": 0.3},
         {"learning_rate": 7e-4, "weight_decay": 0.01}, 32_768),
    ],
)  # fmt: skip
def test_settings_of_the_paper(name: str, model: dict[str, Any], training: dict[str, Any], tokens: int) -> None:
    recipe = recipe_load.load(name)
    plain = recipe.plain()
    assert (_BASE | model).items() <= plain["model"].items()
    adam = {"beta1": 0.9, "beta2": 0.98, "schedule": "inverse_sqrt", "warmup": 10_000}
    assert (adam | training).items() <= plain["training"].items()
    assert recipe.training.batch_tokens * recipe.training.accumulate == tokens
    assert recipe.objective == JanusObjective(
        ar_stream="query", noise=Noise(spans=1.0, span_mean=2.0, span_budget=0.7), label_smoothing=0.1,
        ar=1.0, nar=0.5, aux=0.5, length=0.1, kl_ar_aux=3.0, kl_nar_aux=1.0, kl_ar_nar=1.0,
    )  # fmt: skip
    assert (recipe.decoding.beam, recipe.decoding.iters) == (5, 10)


def test_iwslt14_decodes_three_lengths() -> None:
    assert recipe_load.load("iwslt14").decoding.length_beam == 3


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"model": {"width": 30, "heads": 4}}, "width 30 is not a multiple of heads 4"),
        ({"objective": {"name": "cemat", "source_least": 0.3}}, "source_least 0.3 is more than source_most 0.2"),
        ({"objective": {"name": "cemat", "target_most": 0.1}}, "target_least 0.2 is more than target_most 0.1"),
        (
            {"objective": {"name": "cemat"}, "tokenizer": {"joint": False}, "model": {"tie": "target"}},
            "objective.switched puts words of the target into the source: it needs tokenizer.joint true, or 0",
        ),
        ({"data": {"max_tokens": 255}}, "data.max_tokens 255 + BOS + EOS does not fit"),
        ({"tokenizer": {"joint": False}}, "model.tie all needs tokenizer.joint true"),
        ({"tokenizer": {"joiner": "@@"}}, "joiner '@@' joins parts of words: it needs kind words"),
        ({"data": {"source": "de", "target": "de"}}, "source and target are both 'de'"),
        ({"data": {"valid": "train"}}, "train, valid and test need three names"),
        ({"model": {"attention": "flex", "attention_dropout": 0.1}}, "attention flex has no dropout"),
        ({"objective": {"name": "cmlm", "noise": {}}}, "nothing would ever be hidden"),
        ({"objective": {"name": "cmlm", "noise": {"spans": 0.5, "span_budget": 0.0}}}, "spans would hide nothing"),
        ({"training": {"updates": True}}, "valid integer"),
        ({"training": {"updates": "5"}}, "valid integer"),
        ({"training": {"learning_rate": float("inf")}}, "finite"),
        ({"seed": -1}, "greater than or equal to 0"),
    ],
)
def test_what_does_not_fit_is_refused(section: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace("+", r"\+")):
        CHECKED.validate_json(json.dumps({"name": "x", **section}))


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


@pytest.mark.parametrize("value", ["../x", "/etc/x", "a/b", "..", ".x", "", "a\\b", "a b", "x\n", "a\0"])
@pytest.mark.parametrize("key", ["name", "source", "target", "train", "valid", "test", "save_as"])
def test_names_that_become_paths_stay_inside(key: str, value: str) -> None:
    section: dict[str, Any] = {"name": value} if key == "name" else {"name": "x", "data": {key: value}}
    if key == "save_as":
        section = {"name": "x", "data": {"downloads": ({"url": "http://x", "save_as": value},)}}
    with pytest.raises(ValidationError, match="plain name"):
        CHECKED.validate_json(json.dumps(section))


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (9, 0.0), (10, 0.25), (12, 0.75), (13, 1.0), (500, 1.0)])
def test_kl_weights_warm_up(step: int, share: float) -> None:
    objective = JanusObjective(kl_start=10, kl_warmup=4).at(step)
    assert (objective.kl_ar_aux, objective.kl_nar_aux, objective.kl_ar_nar) == (3 * share, share, share)
    assert (objective.ar, objective.nar, objective.aux, objective.length) == (1.0, 0.5, 0.5, 0.1)


def test_kl_weights_are_whole_from_the_first_update_by_default() -> None:
    assert JanusObjective().at(0) == JanusObjective()
    assert ArObjective().at(0) == ArObjective()
    assert CmlmObjective().at(0) == CmlmObjective()


def test_every_knob_is_explained_and_the_document_is_up_to_date() -> None:
    text = explain(markdown=True)
    assert (Path(__file__).parents[1] / "docs" / "knobs.md").read_text(encoding="utf-8") == text
    plain = explain()
    for name in OBJECTIVES:
        shown = recipe_load.load("demo", ["data.downloads=[{url: x, save_as: x}]"], name).plain()
        for key in _flat(shown, ""):
            if key != "objective.name":
                assert f"| `{key}` |" in text
                assert f"  {key}: " in plain


def _flat(value: object, key: str) -> list[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [path for name, each in items for path in _flat(each, f"{key}.{name}".strip("."))]
    return inner or [key]


@pytest.mark.parametrize(
    ("key", "objective", "words"),
    [
        ("training.learning_rate", None, ["  training.learning_rate: 0.0005  (number, more than 0)\n", "\n[J] "]),
        ("model.tie", None, ["(all or target or none)"]),
        ("decoding.rerank", None, ["(mode nar)"]),
        ("objective.noise", "mpnet", ["objective.noise: uniform: 0.5, full: 0.5", "objective.noise.spans: 0.0"]),
        ("objective.kl_start", None, ["objective, name: janus"]),
        ("data.clean", None, ["data.clean: []  (list of strip_tags, "]),
        ("name", None, ["name: required  (text)"]),
    ],
)  # fmt: skip
def test_a_knob_is_explained(key: str, objective: str | None, words: list[str]) -> None:
    text = explain(key, objective)
    assert all(each in text for each in words)
    keys = re.findall(r"^  ([a-z_.]+): ", text, re.MULTILINE)
    assert keys
    assert all(f"{each}.".startswith(f"{key}.") for each in keys)


@pytest.mark.parametrize(
    ("key", "objective", "words"),
    [
        ("learning_rate", None, "no knob named learning_rate, did you mean training.learning_rate?"),
        ("training.updtes", None, "did you mean training.updates?"),
        ("objective.kl_start", "ar", "no knob named objective.kl_start"),
        (None, "jnus", "did you mean janus?"),
    ],
)
def test_an_unknown_knob_is_guessed(key: str | None, objective: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        explain(key, objective)
