"""`janus decode` for every objective: each mode that it has, whatever the batch; the others refused with the reason."""

import json
from pathlib import Path

import pytest
from untrained import LINES, Janus, lines

from janus_cli import recipe_load
from janus_cli.core.knobs import OBJECTIVES as OBJECTIVE_KNOBS
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.decoding.modes import modes

MODES = {
    "ar": ("ar",),
    "cmlm": ("nar",),
    "cmlmc": ("nar",),
    "cemat": ("nar",),
    "janus": ("ar", "nar", "spec"),
    "xlnet": ("ar",),
    "mpnet": ("ar", "nar"),
    "prophetnet": ("ar",),
    "bang": ("ar", "nar", "semi"),
}
CASES = [(name, mode) for name, own in MODES.items() for mode in own]


def test_every_objective_has_its_modes() -> None:
    assert set(MODES) == set(OBJECTIVES) == set(OBJECTIVE_KNOBS)
    for name, expected in MODES.items():
        assert modes(recipe_load.load("demo", (), name)) == expected


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_the_batch_changes_no_hypothesis(janus: Janus, name: str, mode: str) -> None:
    """One by one or together, with neighbours of other lengths: the same texts, and one pass at least for each."""
    decoded = []
    for batch in ("1", "7", "64"):
        code, out, err = janus("--run", name, "--mode", mode, "--batch-sentences", batch, "--force")
        assert code == 0, err
        decoded.append(lines(out))
    assert decoded[0] == decoded[1] == decoded[2]
    assert len(decoded[0]) == LINES
    assert len(set(decoded[0])) > LINES / 2, "random weights write differently for each source"
    (summary,) = [json.loads(file.read_bytes()) for file in Path(f"runs/{name}/decode").glob("*.json")]
    assert summary["passes_mean"] >= 1


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, mode) for name in MODES for mode in ("ar", "nar", "semi", "spec") if mode not in MODES[name]],
)
def test_other_modes_are_refused(janus: Janus, name: str, mode: str) -> None:
    code, out, err = janus("--run", name, "--mode", mode)
    assert (code, out) == (2, "")
    assert f"objective {name}: it cannot decode" in err
    assert f"use --mode {' or '.join(MODES[name])}" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run", "bang", "--mode", "nar", "--iters", "4"], "--iters would change nothing: objective bang writes all"),
        (["--run", "bang", "--mode", "semi", "--block", "10"], "at most 9 tokens behind known ones"),
        (["--run", "bang", "--mode", "nar", "--block", "2"], "--block would change nothing"),
        (["--run", "bang", "--mode", "semi", "--nbest", "2"], "--nbest would change nothing"),
        (["--run", "bang", "--mode", "semi", "--nbest", "2"], "add --mode ar, or leave it out"),
        (["--run", "janus", "--block", "2"], "this decodes with --mode ar\nhint: leave it out"),
        (["--run", "ar", "--iters", "4"], "this decodes with --mode ar\nhint: leave it out"),
        (["--run", "janus", "--iters", "4", "--draft-length", "4"], "\nhint: leave them out"),
        (["--run", "janus", "--iters", "4"], "add --mode nar, or leave it out"),
        (["--run", "mpnet", "--mode", "nar", "--block", "2"], "--block would change nothing"),
    ],
)
def test_options_that_do_not_belong_are_refused(janus: Janus, arguments: list[str], words: str) -> None:
    code, out, err = janus(*arguments)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(("name", "warned"), [("cmlm", True), ("mpnet", True), ("janus", True), ("cmlmc", False)])
def test_rewriting_what_stands_there_needs_a_model_that_learnt_it(janus: Janus, name: str, warned: bool) -> None:
    code, _, err = janus("--run", name, "--mode", "nar", "--update", "all")
    assert (code, "warning: --update all rewrites tokens" in err) == (0, warned)
    assert "warning:" not in janus("--run", name, "--mode", "nar", "--update", "hidden")[2]


def test_blocks_take_fewer_passes_and_are_named_after_their_size(janus: Janus) -> None:
    passes = []
    for block in ("1", "2", "9"):
        assert janus("--run", "bang", "--mode", "semi", "--block", block)[0] == 0
        summary = json.loads(Path(f"runs/bang/decode/test.semi{block}.norepeats.json").read_bytes())
        assert summary["options"]["block"] == int(block)
        assert summary["options"]["remove_repeats"]  # as its paper does
        passes.append(summary["passes_mean"])
    assert passes[0] > passes[1] > passes[2]
    assert janus("--run", "bang", "--mode", "nar")[0] == 0
    assert json.loads(Path("runs/bang/decode/test.nar.eos.norepeats.json").read_bytes())["passes_mean"] == 1


def test_an_ar_side_reranks_the_lengths_of_mpnet(janus: Janus) -> None:
    code, out, _ = janus("--run", "mpnet", "--mode", "nar", "--length-beam", "3", "--rerank", "ar")
    assert code == 0
    assert out != janus("--run", "mpnet", "--mode", "nar", "--length-beam", "3")[1]
