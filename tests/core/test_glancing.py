"""Glancing and correction, as JANUS takes them: what is shown, what is asked for; knobs at 0 change nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import MASK, Batch
from janus_cli.core.knobs import CmlmcObjective, CmlmObjective, JanusObjective, Noise
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES, glancing
from janus_cli.core.objectives.glancing import first_look, still_hidden
from janus_cli.core.stream import Stream

ALL = Noise(full=1.0)


def draws(batch: Batch) -> Draws:
    return Draws(1, 0, batch.ids)


def looked(monkeypatch: pytest.MonkeyPatch, model: Transformer, batch: Batch, right: Tensor, ratio: float) -> Tensor:
    """What stays hidden where the first pass is right at the places `right` (B, T) and wrong elsewhere."""

    monkeypatch.setattr(glancing, "guesses", lambda *_: torch.where(right, batch.target, MASK))
    look = first_look(batch.target, batch.target >= 5, draws(batch))
    return still_hidden(model, model.encode(batch.source, batch.source_real), look, ratio)


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_as_much_is_shown_as_was_wrong(
    monkeypatch: pytest.MonkeyPatch, model: Transformer, ragged: Batch, ratio: float
) -> None:
    text = ragged.target >= 5
    n = text.sum(1)
    nothing, everything = torch.zeros_like(text), torch.ones_like(text)
    assert torch.equal(looked(monkeypatch, model, ragged, everything, ratio), text)  # nothing wrong: nothing shown
    hidden = looked(monkeypatch, model, ragged, nothing, ratio)
    assert not (hidden & ~text).any()
    assert torch.equal(hidden.sum(1), n - (ratio * n).floor().long())
    first = text & (text.cumsum(1) == 1)  # only this one is right
    assert torch.equal(looked(monkeypatch, model, ragged, first, ratio).sum(1), n - (ratio * (n - 1)).floor().long())


def test_what_is_shown_is_drawn_and_repeats(ragged: Batch) -> None:
    text = ragged.target >= 5
    look, again = (first_look(ragged.target, text, draws(ragged)) for _ in range(2))
    assert torch.equal(look.death, again.death)
    row = look.death[0][text[0]]
    assert sorted(row.tolist()) == list(range(1, int(text[0].sum()) + 1))  # a random order of all of them
    assert any(
        first_look(ragged.target, text, Draws(seed, 0, ragged.ids)).death[0][text[0]].tolist() != row.tolist()
        for seed in range(2, 6)
    )


def ask(model: Transformer, batch: Batch, knobs: JanusObjective | CmlmObjective) -> dict[str, float]:
    objective = OBJECTIVES[knobs.name]
    plan = objective.plan(batch, draws(batch), knobs)
    return {key: float(term.total.detach()) for key, term in objective.loss(model, batch, plan, knobs).items()}


@pytest.mark.parametrize("kind", [JanusObjective, CmlmObjective])
def test_glancing_asks_for_less_while_training_only(
    monkeypatch: pytest.MonkeyPatch, model: Transformer, ragged: Batch, kind: type[JanusObjective | CmlmObjective]
) -> None:
    asked: list[int] = []
    decode = model.decode

    def spy(stream: Stream, *rest: Any) -> Tensor:
        asked.append(int(stream.labelled.sum()))
        return decode(stream, *rest)

    monkeypatch.setattr(model, "decode", spy)
    model.eval()
    validation = ask(model, ragged, kind(noise=ALL, glance=1.0))
    whole = asked[-1]
    assert validation == ask(model, ragged, kind(noise=ALL))
    model.train()  # dropout is 0 in this model
    asked.clear()
    training = ask(model, ragged, kind(noise=ALL, glance=1.0))
    assert asked[0] == int((ragged.target >= 5).sum())  # the look
    assert asked[-1] < whole
    assert training["ce_nar"] < validation["ce_nar"]
    if kind is JanusObjective:
        assert training["ce_ar"] == pytest.approx(validation["ce_ar"])


def test_the_correction_is_cmlmcs(model: Transformer, ragged: Batch) -> None:
    """The same tokens are replaced by the same words, and cost the same."""
    noise = Noise(fixed=1.0, share=0.4)
    model.eval()
    knobs = CmlmcObjective(noise=noise, replaced=0.6)
    plan = OBJECTIVES["cmlmc"].plan(ragged, draws(ragged), knobs)
    assert plan.counts["wrong"] > 0
    theirs = OBJECTIVES["cmlmc"].loss(model, ragged, plan, knobs)["ce_correct"]
    ours = ask(model, ragged, JanusObjective(noise=noise, correct=0.5, replaced=0.6))
    assert ours["ce_correct"] == pytest.approx(float(theirs.total.detach()))
    plain = ask(model, ragged, JanusObjective(noise=noise))
    assert {name: value for name, value in ours.items() if name != "ce_correct"} == pytest.approx(plain)
