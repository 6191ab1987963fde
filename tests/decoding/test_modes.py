"""How options become the plan of a decoding."""

import pytest

from janus_cli import recipe_load
from janus_cli.decoding.modes import choose
from janus_cli.errors import UsageError


def test_a_block_is_at_most_what_was_trained_unless_it_is_named() -> None:
    recipe = recipe_load.load("demo", ["objective.streams=2"], "bang")
    assert choose(recipe, {"mode": "semi"}).options.block == 2
    with pytest.raises(UsageError, match="at most 2 tokens"):
        choose(recipe, {"mode": "semi", "block": 4})
    with pytest.raises(UsageError, match="at most 2 tokens"):  # as by --set
        choose(recipe, {"mode": "semi"}, ["block"])
    assert choose(recipe_load.load("demo", (), "bang"), {"mode": "semi"}).options.block == 4
