"""CMLMC: what its two streams show, where the wrong tokens come from, and that nothing else gets a gradient."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from janus_cli.core import losses
from janus_cli.core.batch import BOS, EOS, IGNORE, MASK, PAD, Batch, collate
from janus_cli.core.knobs import CmlmcObjective, Model, Noise
from janus_cli.core.model import Memory, Transformer
from janus_cli.core.noise import Draws, is_text
from janus_cli.core.objectives import cmlmc
from janus_cli.core.objectives.base import Plan, guesses
from janus_cli.core.stream import Stream, join

# This seed hides 6 and 9 of the first sentence below and makes 5 wrong.
SEED = 157
KNOBS = CmlmcObjective(replaced=0.5, label_smoothing=0.0)
SENTENCE = [5, 6, 7, 8, 9]


def planned(sentence: list[int] = SENTENCE, seed: int = SEED, knobs: CmlmcObjective = KNOBS) -> tuple[Batch, Plan]:
    batch = collate([[5, 6, 7]] * 2, [sentence, [11] * 8], [0, 1])
    return batch, cmlmc.plan(batch, Draws(seed, 0, batch.ids), knobs)


def rows(stream: Stream, attend: Tensor) -> list[str]:
    return ["".join("1" if cell else "0" for cell in line[:7]) for line in attend[0, :7].tolist()]


def test_both_streams_show_everything_at_once_and_the_causal_attention_what_is_to_the_left() -> None:
    _, plan = planned()
    nar, correct, guess = plan.streams["nar"], plan.streams["correct"], plan.drafts["guess"]
    frame = [PAD] * 3
    assert nar.tokens[0].tolist() == [BOS, 5, MASK, 7, 8, MASK, EOS, *frame]
    assert nar.labels[0].tolist() == [IGNORE, IGNORE, 6, IGNORE, IGNORE, 9, IGNORE, *[IGNORE] * 3]
    assert guess.tokens[0].tolist() == [BOS, *[MASK] * 5, EOS, *frame]
    assert correct.labels[0].tolist() == guess.labels[0].tolist() == [IGNORE, 5, *[IGNORE] * 8]
    for stream in (nar, correct, guess):
        assert rows(stream, stream.attend) == ["1111111"] * 7
        assert rows(stream, stream.causal) == [
            "1000000", "1100000", "1110000", "1111000", "1111100", "1111110", "1111111",
        ]  # fmt: skip
    joined, _ = join([nar, correct])
    assert not joined.attend[0, :10, 10:].any()
    assert not joined.attend[0, 10:, :10].any()


@pytest.mark.parametrize(
    ("length", "replaced", "share"), [(20, 0.3, 0.3), (20, 0.0, 0.0), (20, 1.0, 1.0), (3, 0.3, 0.0)]
)
def test_a_share_of_the_observed_tokens_is_wrong_and_no_hidden_one(length: int, replaced: float, share: float) -> None:
    batch = collate([[5]] * 500, [[7] * length] * 500, range(500))
    plan = cmlmc.plan(batch, Draws(1, 0, batch.ids), CmlmcObjective(replaced=replaced))
    hidden, wrong = plan.streams["nar"].labelled, plan.streams["correct"].labelled
    assert not (hidden & wrong).any()
    assert not (wrong & ~is_text(batch.target)).any()
    observed = length - hidden.sum(1)
    assert torch.equal(wrong.sum(1), (share * observed + 1e-9).long())
    assert plan.counts["wrong"] == int(wrong.sum())


def recorded(
    monkeypatch: pytest.MonkeyPatch, model: Transformer, batch: Batch, plan: Plan
) -> tuple[list[Stream], list[Tensor]]:
    """The streams that `loss` decodes, and the logits that it is paid for: hidden tokens, then wrong ones."""
    streams, logits, plain = [], [], model.decode

    def decode(stream: Stream, memory: Memory) -> Tensor:
        assert torch.is_grad_enabled() == bool(streams)  # not in the first call, which guesses
        streams.append(stream)
        return plain(stream, memory)

    monkeypatch.setattr(model, "decode", decode)

    def keep(states: Tensor, words: Tensor, gold: Tensor, smoothing: float) -> Tensor:
        logits.append(states @ words.T)
        return states.sum()

    monkeypatch.setattr(losses, "cross_entropy", keep)
    cmlmc.loss(model, batch, plan, KNOBS)
    monkeypatch.undo()
    return streams, logits


def test_the_model_reads_what_it_would_write_itself(monkeypatch: pytest.MonkeyPatch, model: Transformer) -> None:
    batch, plan = planned()
    (guess, nar, correct), _ = recorded(monkeypatch, model, batch, plan)
    memory = model.encode(batch.source, batch.source_real)
    logits = model.logits(model.decode(plan.drafts["guess"], memory))
    logits[..., [PAD, BOS, EOS, MASK]] = -torch.inf
    wrong = plan.streams["correct"].labelled
    assert torch.equal(guess.tokens, plan.drafts["guess"].tokens)
    assert torch.equal(nar.tokens, plan.streams["nar"].tokens)
    read = correct.tokens
    assert torch.equal(read[wrong], logits.argmax(-1)[wrong])
    assert torch.equal(read[~wrong], plan.streams["nar"].tokens[~wrong])
    assert (read[wrong] != batch.target[wrong]).any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("changed", range(1, 6))
def test_only_observed_tokens_are_seen(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, causal: bool, changed: int
) -> None:
    """Positions: 2 and 5 are hidden from both, 1 (wrong) is seen by the first alone, 3 and 4 by both."""
    torch.manual_seed(0)
    knobs = replace(tiny, init="xavier", causal_attention=causal)
    model = Transformer(knobs, 20, 20, length_head=True).double().eval()
    other = list(SENTENCE)
    other[changed - 1] = 15
    (nar, correct), (nar_after, correct_after) = (
        recorded(monkeypatch, model, *planned(sentence))[1] for sentence in (SENTENCE, other)
    )
    nar_moved = not torch.allclose(nar[:2], nar_after[:2], atol=1e-12)
    correct_moved = not torch.allclose(correct[:1], correct_after[:1], atol=1e-12)
    assert (nar_moved, correct_moved) == (changed in (1, 3, 4), changed in (3, 4))
    assert torch.allclose(nar[2:], nar_after[2:], atol=1e-12)  # the other sentence


def test_without_observed_tokens_nothing_is_corrected(model: Transformer) -> None:
    batch, plan = planned(knobs=CmlmcObjective(noise=Noise(full=1.0)))
    terms = cmlmc.loss(model, batch, plan, KNOBS)
    assert plan.counts["wrong"] == 0
    assert terms["ce_correct"].total.item() == 0.0


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


def test_autocast_keeps_no_weights_of_the_guess(monkeypatch: pytest.MonkeyPatch, tiny: Model) -> None:
    model = Transformer(tiny, 20, 20, length_head=True)
    batch, plan = planned()
    guess, decode, modes = plan.drafts["guess"], model.decode, []

    def spy(stream: Stream, memory: Memory) -> Tensor:
        modes.append((torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled(), torch.is_grad_enabled()))
        return decode(stream, memory)

    monkeypatch.setattr(model, "decode", spy)
    with torch.autocast("cpu", torch.bfloat16):
        memory = model.encode(batch.source, batch.source_real)
        guesses(model, memory, guess, guess.labelled, ())
        assert torch.is_autocast_cache_enabled()
    assert modes == [(torch.bfloat16, False, False)]
