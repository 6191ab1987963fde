"""Every number of a recipe and of the command line has bounds, and what lies outside is refused at once."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from janus_cli import recipe_load, system
from janus_cli.cli import VERBS, function_of
from janus_cli.core.knob import knobs
from janus_cli.core.knobs import Decoding
from janus_cli.errors import OutOfMemoryError, UsageError
from janus_cli.lab.labels import matching
from janus_cli.recipe import sections
from janus_cli.training import size
from janus_cli.training.model import build_model
from tests.helpers import Janus, ends, sets


def is_number(kind: Any) -> bool:
    """Also one that may be left out; but columns of a table may be given by number, and are looked up."""
    return kind in (int, float) or (get_origin(kind) is not tuple and any(map(is_number, get_args(kind))))


def test_every_number_of_a_recipe_has_both_bounds() -> None:
    unbounded, seen = [], 0
    for place, section in sections():
        kinds = get_type_hints(section)
        for name, knob in knobs(section).items():
            if is_number(kinds[name]):
                seen += 1
                low, high = knob.bounds.keys() & {"ge", "gt"}, knob.bounds.keys() & {"le", "lt"}
                unbounded += [f"{place}.{name}"] * (not (low and high))
    assert not unbounded
    assert seen > 80


def test_every_number_of_the_command_line_has_both_bounds() -> None:
    unbounded, seen = [], 0
    for verb in VERBS:
        function = function_of(verb)
        for name, parameter in inspect.signature(function).parameters.items():
            kind, *markers = get_args(parameter.annotation) or (None,)
            if is_number(kind) and name not in knobs(Decoding):  # those are options made of knobs, see above
                seen += 1
                unbounded += [f"{verb} {name}" for each in markers if each.min is None or each.max is None]
    assert not unbounded
    assert seen > 20


@pytest.mark.parametrize(
    "change",
    [
        "training.beta1=1", "model.dropout=1", "model.width=1000000000000", "decoding.iters=9223372036854775808",
        "training.minutes=.inf", "training.minutes=1e300", "seed=18446744073709551616", "seed=-1",
        "decoding.batch_sentences=0", f"{'a.' * 2000}b=1", f"data={'[' * 2000}", f"seed={'9' * 5000}",
    ],
)  # fmt: skip
def test_a_number_out_of_bounds_is_refused_by_the_recipe(janus: Janus, change: str) -> None:
    err = ends(janus("recipes", "show", "demo", "--set", change), 2, change.partition("=")[0][:20], out="")
    assert len(err) < 3000


def test_counts_of_decoding_that_are_cut_later_may_be_as_large_as_runs_of_before_have_them() -> None:
    names = ("max_extra", "nbest", "beam", "length_beam", "iters", "block", "draft_length", "verify_window")
    recipe = recipe_load.load("demo", [f"decoding.{name}=10000" for name in names])
    assert {getattr(recipe.decoding, name) for name in names} == {10_000}


def test_a_temperature_is_0_or_large_enough_to_divide_by() -> None:
    for refused in ("1e-50", "0.0009"):
        with pytest.raises(UsageError, match=f"temperature {refused} is neither 0 nor at least 0.001"):
            recipe_load.load("demo", [f"decoding.temperature={refused}"])
    assert recipe_load.load("demo", ["decoding.temperature=0.001"]).decoding.temperature == 0.001


def test_a_key_of_2000_levels_in_a_file_is_refused(janus: Janus, empty_folder: Path) -> None:
    for text in ("{a: " * 2000 + "1" + "}" * 2000, "\n".join(" " * depth + "a:" for depth in range(1000))):
        Path("deep.yaml").write_text(f"name: a\ndata: {text}\n" if "{" in text else text)
        ends(janus("recipes", "show", "deep.yaml"), 2, "nested deeper than 20 levels", out="")


@pytest.mark.parametrize(
    "words",
    [
        "train --threads 2147483648", "preprocess --seed 18446744073709551616", "score --bootstrap -1",
        "decode --iters 9223372036854775808", "decode --batch-sentences 0", "decode --length-penalty nan",
        "compare --minutes inf", "compare --jobs 1000000", "distill --surest nan", "report --sentences 0",
        "bench --repeats 0", "decode --device cuda:99999999999999999999",
        f"compare --objectives ar --seeds {'9' * 5000}", "compare --objectives ar --seeds 9223372036854775808",
    ],
)  # fmt: skip
def test_a_number_out_of_bounds_is_refused_by_the_command_line(janus: Janus, empty_folder: Path, words: str) -> None:
    err = ends(janus(*words.split()), 2, "\nhint: ", out="")
    assert err.startswith("error: ")
    assert words.split()[-2] in err.split("\nhint: ")[0]
    assert len(err) < 1000
    assert not list(empty_folder.iterdir())


def test_a_row_with_a_number_of_5000_digits_is_no_row() -> None:
    with pytest.raises(UsageError, match="there is no such row"):
        matching([f"nar{'9' * 5000}"])


HUGE = ["model.width=65536", "model.feedforward=262144", "model.encoder_layers=1000"]


def test_a_model_that_no_memory_holds_is_refused_before_it_is_made(janus: Janus, tiny_recipe: Path) -> None:
    words = ["train", "--recipe", str(tiny_recipe), "--run", "run", "--device", "cpu", *sets(*HUGE)]
    for more in ([], ["--dry-run"]):  # the first call prepares the data
        err = ends(janus(*words, *more), 6, "hint: lower model.width", out="")
        assert re.search(r"a model of 5\d(,\d{3}){4} weights", err)
        assert not Path("run").exists()


SMALL = ["model.width=16", "model.feedforward=32", "model.heads=2", "model.max_length=32", "data.max_tokens=30"]


def test_the_size_of_a_model_is_that_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    for *more, objective in (["tie=all", "janus"], ["tie=none", "positions=learned", "ar"], ["tie=target", "cmlmc"]):
        recipe = recipe_load.load("demo", [*SMALL, *(f"model.{each}" for each in more)], objective=objective)
        counted = sum(weight.numel() for weight in build_model(recipe, 20, 20).weights().values())
        assert size.parts(recipe.model, (20, 20), lengths=recipe.objective.lengths).total() == counted
    monkeypatch.setattr(size, "usable_memory", lambda: 4 * counted - 1)
    with pytest.raises(OutOfMemoryError):
        build_model(recipe, 20, 20)
    monkeypatch.setattr(size, "usable_memory", lambda: None)  # nobody says how much there is
    assert build_model(recipe, 20, 20)
    assert (system.usable_memory() or 2**30) > 2**20
