"""CMLMC's correction and glancing: what is shown, where the wrong tokens come from, what gets a gradient."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from janus_cli.core import losses
from janus_cli.core.batch import BOS, EOS, IGNORE, MASK, PAD, Batch, collate
from janus_cli.core.knobs import CmlmcObjective, CmlmObjective, JanusObjective, Model, Noise
from janus_cli.core.model import Memory, Transformer
from janus_cli.core.noise import Draws, is_text
from janus_cli.core.objectives import Plan, cmlmc, glancing
from janus_cli.core.objectives.glancing import first_look, still_hidden
from janus_cli.core.stream import Stream
from tests.core.test_objectives import losses as losses_of
from tests.helpers import Patch

# This seed hides 6 and 9 of the first sentence below and makes 5 wrong.
SEED = 157
KNOBS = CmlmcObjective(replaced=0.5, label_smoothing=0.0)
SENTENCE = [5, 6, 7, 8, 9]
ALL = Noise(full=1.0)


def planned(sentence: list[int] = SENTENCE, knobs: CmlmcObjective = KNOBS) -> tuple[Batch, Plan]:
    batch = collate([[5, 6, 7]] * 2, [sentence, [11] * 8], [0, 1])
    return batch, cmlmc.plan(batch, Draws(SEED, 0, batch.ids), knobs)


def test_the_streams_show_everything_at_once_and_the_causal_attention_what_is_to_the_left() -> None:
    _, plan = planned()
    nar, correct, guess = plan.streams["nar"], plan.streams["correct"], plan.drafts["guess"]
    assert nar.tokens[0].tolist() == [BOS, 5, MASK, 7, 8, MASK, EOS, PAD, PAD, PAD]
    assert nar.labels[0].tolist() == [IGNORE, IGNORE, 6, IGNORE, IGNORE, 9, *[IGNORE] * 4]
    assert guess.tokens[0].tolist() == [BOS, *[MASK] * 5, EOS, PAD, PAD, PAD]
    assert correct.labels[0].tolist() == guess.labels[0].tolist() == [IGNORE, 5, *[IGNORE] * 8]
    for stream in (nar, correct, guess):
        assert stream.attend[0, :7, :7].all()
        assert torch.equal(stream.causal[0, :7, :7], torch.ones(7, 7, dtype=torch.bool).tril())


@pytest.mark.parametrize(
    ("length", "replaced", "share"), [(20, 0.3, 0.3), (20, 0.0, 0.0), (20, 1.0, 1.0), (3, 0.3, 0.0)]
)
def test_a_share_of_the_observed_tokens_is_wrong_and_no_hidden_one(length: int, replaced: float, share: float) -> None:
    batch = collate([[5]] * 500, [[7] * length] * 500, range(500))
    plan = cmlmc.plan(batch, Draws(1, 0, batch.ids), CmlmcObjective(replaced=replaced))
    hidden, wrong = plan.streams["nar"].labelled, plan.streams["correct"].labelled
    assert not (hidden & wrong).any()
    assert not (wrong & ~is_text(batch.target)).any()
    assert torch.equal(wrong.sum(1), (share * (length - hidden.sum(1)) + 1e-9).long())
    assert plan.counts["wrong"] == int(wrong.sum())


def recorded(monkeypatch: Patch, model: Transformer, batch: Batch, plan: Plan) -> tuple[list[Stream], list[Tensor]]:
    """The streams that `loss` decodes, and the logits that it is paid for: hidden tokens, then wrong ones."""
    streams, logits, plain = [], [], model.decode

    def decode(stream: Stream, memory: Memory) -> Tensor:
        guessing = not streams  # in the first call: without gradient, and autocast keeps no weights that it converts
        assert torch.is_grad_enabled() != guessing
        assert torch.is_autocast_cache_enabled() != guessing
        streams.append(stream)
        return plain(stream, memory)

    def keep(states: Tensor, words: Tensor, gold: Tensor, smoothing: float, bias: Tensor | None = None) -> Tensor:
        logits.append(states @ words.T)
        return states.sum()

    with monkeypatch.context() as patch:
        patch.setattr(model, "decode", decode)
        patch.setattr(losses, "cross_entropy", keep)
        cmlmc.loss(model, batch, plan, KNOBS)
    return streams, logits


def test_the_model_reads_what_it_would_write_itself(monkeypatch: Patch, model: Transformer) -> None:
    batch, plan = planned()
    (guess, nar, correct), _ = recorded(monkeypatch, model, batch, plan)
    logits = model.logits(model.decode(plan.drafts["guess"], model.encode(batch.source, batch.source_real)))
    logits[..., [PAD, BOS, EOS, MASK]] = -torch.inf
    wrong = plan.streams["correct"].labelled
    assert torch.equal(guess.tokens, plan.drafts["guess"].tokens)
    assert torch.equal(nar.tokens, plan.streams["nar"].tokens)
    assert torch.equal(correct.tokens, torch.where(wrong, logits.argmax(-1), nar.tokens))
    assert (correct.tokens[wrong] != batch.target[wrong]).any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("changed", range(1, 6))
def test_only_observed_tokens_are_seen(monkeypatch: Patch, tiny: Model, causal: bool, changed: int) -> None:
    """Positions: 2 and 5 are hidden from both, 1 (wrong) is seen by the first alone, 3 and 4 by both."""
    torch.manual_seed(0)
    model = Transformer(replace(tiny, init="xavier", causal_attention=causal), 20, 20, length_head=True).double().eval()
    other = list(SENTENCE)
    other[changed - 1] = 15
    (nar, correct), (nar_after, correct_after) = (
        recorded(monkeypatch, model, *planned(sentence))[1] for sentence in (SENTENCE, other)
    )
    nar_moved = not torch.allclose(nar[:2], nar_after[:2], atol=1e-12)
    correct_moved = not torch.allclose(correct[:1], correct_after[:1], atol=1e-12)
    assert (nar_moved, correct_moved) == (changed in (1, 3, 4), changed in (3, 4))
    assert torch.allclose(nar[2:], nar_after[2:], atol=1e-12)  # the other sentence


def test_the_guess_takes_no_gradient_from_the_other_passes_in_bf16_either(tiny: Model) -> None:
    """Autocast must not hand on weights that it converted while there was no gradient."""
    torch.manual_seed(0)
    knobs = replace(tiny, causal_attention=True, embedding="concat", init="xavier")
    model = Transformer(knobs, 20, 20, length_head=True).train()
    batch, plan = planned()

    def gradient(precise: bool) -> dict[str, Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            terms = cmlmc.loss(model, batch, plan, KNOBS)
        torch.stack([term.weight * term.total for term in terms.values()]).sum().backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    low, exact = gradient(False), gradient(True)
    assert low.keys() == exact.keys() == dict(model.named_parameters()).keys()
    for name, value in exact.items():
        assert torch.cosine_similarity(low[name].flatten(), value.flatten(), dim=0) > 0.97, name


def test_the_correction_of_janus_is_cmlmcs(model: Transformer, ragged: Batch) -> None:
    """The same tokens are replaced by the same words, and cost the same; without the knob nothing changes."""
    noise = Noise(fixed=1.0, share=0.4)
    theirs = losses_of(model, CmlmcObjective(noise=noise, replaced=0.6), ragged)
    ours = losses_of(model, JanusObjective(noise=noise, correct=0.5, replaced=0.6), ragged)
    assert ours.pop("ce_correct") == pytest.approx(theirs["ce_correct"])
    assert theirs["ce_correct"] > 0
    assert ours == pytest.approx(losses_of(model, JanusObjective(noise=noise), ragged))


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_as_much_is_shown_as_was_wrong(monkeypatch: Patch, model: Transformer, ragged: Batch, ratio: float) -> None:
    text = is_text(ragged.target)
    n, first = text.sum(1), text & (text.cumsum(1) == 1)
    memory = model.encode(ragged.source, ragged.source_real)
    look = first_look(ragged.target, text, Draws(1, 0, ragged.ids))
    for right, wrong in ((text, 0 * n), (~text, n), (first, n - 1)):  # at these places the first pass is right
        monkeypatch.setattr(glancing, "guesses", lambda *_, right=right: torch.where(right, ragged.target, MASK))
        hidden = still_hidden(model, memory, look, ratio)
        assert not (hidden & ~text).any()
        assert torch.equal(hidden.sum(1), n - (ratio * wrong).floor().long())


@pytest.mark.parametrize("kind", [JanusObjective, CmlmObjective])
def test_glancing_asks_for_less_while_training_only(
    monkeypatch: Patch, model: Transformer, ragged: Batch, kind: type[JanusObjective | CmlmObjective]
) -> None:
    asked: list[int] = []
    decode = model.decode

    def spy(stream: Stream, *rest: Any) -> Tensor:
        asked.append(int(stream.labelled.sum()))
        return decode(stream, *rest)

    monkeypatch.setattr(model, "decode", spy)
    validation = losses_of(model, kind(noise=ALL, glance=1.0), ragged)
    whole = asked[-1]
    assert validation == losses_of(model, kind(noise=ALL), ragged)
    model.train()  # dropout is 0 in this model
    asked.clear()
    training = losses_of(model, kind(noise=ALL, glance=1.0), ragged)
    assert asked[0] == int(is_text(ragged.target).sum())  # the look
    assert asked[-1] < whole
    assert training["ce_nar"] < validation["ce_nar"]
    if kind is JanusObjective:
        assert training["ce_ar"] == pytest.approx(validation["ce_ar"])
