"""Each objective on a tiny model: no distribution sees what it must not, terms add up, padding is nothing."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from janus_cli.core.batch import IGNORE, Batch, collate
from janus_cli.core.knobs import (
    ArObjective,
    BangObjective,
    CematObjective,
    CmlmcObjective,
    CmlmObjective,
    JanusObjective,
    Model,
    MpnetObjective,
    Noise,
    ProphetnetObjective,
    XlnetObjective,
)
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES, Plan, Term
from janus_cli.core.objectives.janus import nar_and_aux
from janus_cli.core.stream import FIELDS, ar_stream

SENTENCE = [5, 6, 7, 8, 9, 10]
HIDDEN = (2, 4, 5)  # positions
WRONG: dict[str, Any] = {"replaced": 0.5, "noise": Noise(fixed=1.0)}  # so that some of these few tokens are replaced
ALL = Noise(full=1.0)
CASES = [
    (knobs.name, knobs)
    for knobs in (
        ArObjective(ar_stream="content"), ArObjective(ar_stream="query"), ArObjective(rdrop=2.0), CmlmObjective(),
        CmlmObjective(glance=0.5),
        CmlmcObjective(), CematObjective(switched=0.9), JanusObjective(ar_stream="content"),
        JanusObjective(ar_stream="query"), JanusObjective(correct=0.5, glance=0.3, **WRONG),
        JanusObjective(two_encodings=True), XlnetObjective(),
        XlnetObjective(predicted=0.5),
        MpnetObjective(), ProphetnetObjective(ngram=3), BangObjective(streams=3),
    )
]  # fmt: skip
EVERY = pytest.mark.parametrize(("name", "knobs"), CASES)


def made(knobs: Any, batch: Batch) -> Plan:
    return OBJECTIVES[knobs.name].plan(batch, Draws(1, 0, batch.ids), knobs)


def terms(model: Transformer, knobs: Any, batch: Batch) -> dict[str, Term]:
    return OBJECTIVES[knobs.name].loss(model, batch, made(knobs, batch), knobs)


def losses(model: Transformer, knobs: Any, batch: Batch) -> dict[str, float]:
    return {name: float(term.total.detach()) for name, term in terms(model, knobs, batch).items()}


def make(tokens: list[int], beside: list[int] | None = None) -> Batch:
    """The sentence, next to a longer one so that it is padded."""
    return collate([[5, 6, 7]] * 2, [tokens, beside or [11] * 9], [0, 1])


def logits(model: Transformer, batch: Batch, kind: Any) -> dict[str, dict[int, Tensor]]:
    """Logits of the first sentence by distribution and position of the predicted token."""
    hidden = torch.zeros_like(batch.target, dtype=torch.bool)
    hidden[0, list(HIDDEN)] = True
    hidden[1, 1] = True
    nar_aux, ar = nar_and_aux(batch.target, hidden), ar_stream(batch.target, kind)
    memory = model.encode(batch.source, batch.source_real)
    ar_logits, both = (model.logits(model.decode(stream, memory))[0] for stream in (ar, nar_aux))
    aux = both[nar_aux.keys :]
    assert nar_aux.labels[0, list(HIDDEN)].tolist() == [batch.target[0, p] for p in HIDDEN]
    return {
        "ar": dict(enumerate(ar_logits[ar.labelled[0]], 1)),
        "nar": {p: both[p] for p in HIDDEN},
        "aux": {p: aux[k] for k, p in enumerate(HIDDEN)},
    }


def sees(distribution: str, predicted: int, changed: int) -> bool:
    """Whether the prediction of one position may depend on the real token at another."""
    if distribution == "ar":
        return changed < predicted
    if changed not in HIDDEN:
        return True
    return distribution == "aux" and changed < predicted


@pytest.mark.parametrize("kind", ["content", "query"])
@pytest.mark.parametrize("changed", range(1, len(SENTENCE) + 1))
def test_no_distribution_sees_what_it_must_not(model: Transformer, kind: str, changed: int) -> None:
    """Change one token: exactly the logits that may see it move."""
    other = list(SENTENCE)
    other[changed - 1] = 15
    before, after = (logits(model, make(tokens), kind) for tokens in (SENTENCE, other))
    for distribution, values in before.items():
        for predicted, value in values.items():
            moved = not torch.allclose(value, after[distribution][predicted], atol=1e-12)
            assert moved == sees(distribution, predicted, changed), (distribution, predicted)


@EVERY
def test_the_ar_side_is_trained_on_the_slots_that_it_is_decoded_with(ragged: Batch, name: str, knobs: Any) -> None:
    found = made(knobs, ragged).streams.get("ar")
    assert (found is None) == (name not in ("ar", "janus"))
    if found is not None:
        expected = ar_stream(ragged.target, knobs.ar_stream)
        for field in FIELDS:  # R-Drop: two passes
            for slots in getattr(found, field).split(len(ragged.target)):
                assert torch.equal(slots, getattr(expected, field))


@EVERY
def test_what_stands_behind_a_source_is_not_predicted(tiny: Model, ragged: Batch, name: str, knobs: Any) -> None:
    """As mBART's language does."""
    needed = knobs.elsewhere.get("model", {})
    model = Transformer(replace(tiny, source_suffix=7, **needed), 20, 20, length_head=knobs.lengths)
    assert all(torch.isfinite(term.total) for term in terms(model, knobs, ragged).values())


def test_rdrop_ties_passes_that_differ_in_their_dropout_alone(model: Transformer, ragged: Batch) -> None:
    """Without dropout both are what AR alone has; with it each has noise of its own, also in the encoder."""
    alone = losses(model, ArObjective(), ragged)
    assert losses(model, ArObjective(rdrop=1.0), ragged) == pytest.approx({**alone, "kl_rdrop": 0.0}, abs=1e-9)
    noisy = Transformer(replace(model.knobs, dropout=0.5), 20, 20, length_head=False).train()
    assert losses(noisy, ArObjective(rdrop=1.0), ragged)["kl_rdrop"] > 1e-3


def test_two_encodings_differ_in_their_dropout_alone(model: Transformer, ragged: Batch) -> None:
    """NAR and AUX read the second one, AR the first: with another dropout, AR's losses stay as they are."""
    one, two = JanusObjective(), JanusObjective(two_encodings=True)
    assert losses(model, two, ragged) == pytest.approx(losses(model, one, ragged), abs=1e-9)
    found = []
    for knobs in (one, two):
        noisy = Transformer(replace(model.knobs, dropout=0.5), 20, 20, length_head=True).train()
        noisy.load_weights(model.weights())
        for layer in noisy.decoder:
            layer.eval()  # so that encodings alone differ
        torch.manual_seed(3)
        found.append(losses(noisy, knobs, ragged))
    assert found[0]["length"] == found[1]["length"]
    assert found[1]["ce_nar"] != found[0]["ce_nar"]
    assert found[1]["kl_ar_aux"] > found[0]["kl_ar_aux"]


UNITS: list[tuple[Any, dict[str, tuple[str, float]]]] = [
    (ArObjective(), {"ce_ar": ("tokens", 1.0)}),
    (ArObjective(rdrop=3.0), {"ce_ar": ("tokens", 1.0), "kl_rdrop": ("tokens", 1.5)}),
    (CmlmObjective(length=0.2), {"ce_nar": ("hidden", 1.0), "length": ("sentences", 0.2)}),
    (
        CmlmcObjective(nar=0.4, correct=0.7, length=0.2, **WRONG),
        {"ce_nar": ("hidden", 0.4), "ce_correct": ("wrong", 0.7), "length": ("sentences", 0.2)},
    ),
    (
        CematObjective(encoder=0.4, nar=0.7, length=0.2),
        {"ce_encoder": ("unread", 0.4), "ce_nar": ("hidden", 0.7), "length": ("sentences", 0.2)},
    ),
    (
        JanusObjective(ar=0.9, nar=0.4, aux=0.7, kl_nar_aux=1.1, kl_ar_nar=1.2, length=0.2, correct=0.3, **WRONG),
        {
            "ce_ar": ("tokens", 0.9), "ce_nar": ("hidden", 0.4), "ce_aux": ("hidden", 0.7),
            "kl_ar_aux": ("hidden", 3.0), "kl_nar_aux": ("hidden", 1.1), "kl_ar_nar": ("hidden", 1.2),
            "length": ("sentences", 0.2), "ce_correct": ("wrong", 0.3),
        },
    ),
    (XlnetObjective(), {"ce_permuted": ("hidden", 1.0)}),
    (MpnetObjective(length=0.2), {"ce_permuted": ("hidden", 1.0), "length": ("sentences", 0.2)}),
    (ProphetnetObjective(ngram=1), {"ce_ar": ("tokens", 1.0)}),
    (
        ProphetnetObjective(ngram=4),  # each stream weighs 1/4, however many slots it has
        {
            "ce_ar": ("tokens", 0.25), "ce_later": ("later", 0.25), "ce_later_3": ("later_3", 0.25),
            "ce_later_4": ("later_4", 0.25),
        },
    ),
    (
        BangObjective(ar=0.5, nar=0.6, semi=0.7),
        {"ce_ar": ("ar", 0.5), "ce_nar": ("nar", 0.6), "ce_semi": ("semi", 0.7)},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("knobs", "units"), UNITS)
def test_each_term_has_its_own_weight_and_unit_and_cross_entropies_are_smoothed(
    model: Transformer, ragged: Batch, knobs: Any, units: dict[str, tuple[str, float]]
) -> None:
    assert {knobs.name for knobs, _ in UNITS} == set(OBJECTIVES)
    found = terms(model, knobs, ragged)
    assert {name: (term.unit, pytest.approx(term.weight)) for name, term in found.items()} == units
    plain, smooth = (losses(model, replace(knobs, label_smoothing=share), ragged) for share in (0.0, 0.5))
    for name, value in plain.items():
        assert (smooth[name] != pytest.approx(value, rel=1e-6)) == name.startswith("ce_"), name


@EVERY
def test_terms_are_sums_over_sentences(model: Transformer, ragged: Batch, name: str, knobs: Any) -> None:
    """A batch costs what its sentences cost alone: nothing depends on neighbours or padding."""
    lexicon = torch.arange(60).view(20, 3) % 15 + 5
    whole = losses(model, knobs, replace(ragged, lexicon=lexicon))
    assert tuple(whole) == OBJECTIVES[name].terms_with(knobs)
    alone: dict[str, float] = dict.fromkeys(whole, 0.0)
    for row in range(3):
        n, s = int(ragged.target_real[row].sum()), int(ragged.source_real[row].sum())
        sides = ragged.source[row : row + 1, :s], ragged.target[row : row + 1, :n]
        one = Batch(*sides, ragged.ids[row : row + 1], lexicon)
        for key, value in losses(model, knobs, one).items():
            alone[key] += value
    assert whole == pytest.approx(alone, rel=1e-6)


@EVERY
def test_counts_are_the_labelled_slots_and_every_slot_sees_something(
    model: Transformer, ragged: Batch, name: str, knobs: Any
) -> None:
    plan = made(knobs, ragged)
    assert (plan.counts["tokens"], plan.counts["sentences"]) == (5 + 2 + 3, 3)
    labels = [stream.labels for stream in plan.streams.values()] + ([plan.source.labels] if plan.source else [])
    units = [term.unit for key, term in terms(model, knobs, ragged).items() if key.startswith("ce_")]
    passes = 2 if getattr(knobs, "rdrop", 0) else 1
    assert sum(int((each != IGNORE).sum()) for each in labels) == passes * sum(plan.counts[unit] for unit in units)
    for stream in (*plan.streams.values(), *plan.drafts.values()):
        assert stream.causal.any(-1).all()


def test_janus_holds_ar_and_cmlm_and_compares_the_same_tokens(model: Transformer, ragged: Batch) -> None:
    noise = Noise(uniform=1.0)
    ours = losses(model, JanusObjective(noise=noise), ragged)
    theirs = losses(model, ArObjective(), ragged) | losses(model, CmlmObjective(noise=noise), ragged)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-6)
    # With everything hidden, AUX of the first token sees what NAR sees: KL 0 there, and only there.
    batch = collate([[5, 6]], [[7]], [0])
    found = losses(model, JanusObjective(noise=ALL, label_smoothing=0.0), batch)
    assert found["kl_nar_aux"] == pytest.approx(0.0, abs=1e-9)
    assert found["ce_nar"] == pytest.approx(found["ce_aux"], rel=1e-9)
    assert found["kl_ar_aux"] > 1e-4


@EVERY
def test_every_weight_gets_gradient(tiny: Model, name: str, knobs: Any, ragged: Batch) -> None:
    torch.manual_seed(0)
    model = Transformer(tiny, 20, 20, length_head=knobs.lengths)
    plan = made(knobs, ragged)
    found = OBJECTIVES[name].loss(model, ragged, plan, knobs)
    torch.stack([term.weight * term.total * plan.share(term.unit) for term in found.values()]).sum().backward()
    for key, weight in model.named_parameters():
        assert weight.grad is not None, key
        assert torch.isfinite(weight.grad).all(), key


@EVERY
def test_hard_batches_stay_finite(model: Transformer, name: str, knobs: Any) -> None:
    """A target of no tokens, a source of nothing but padding, everything hidden."""
    batch = replace(collate([[], [5]], [[], [6, 7]], [0, 1]), source=torch.tensor([[0, 0], [5, 3]]))
    knobs = replace(knobs, noise=ALL) if hasattr(knobs, "noise") else knobs
    assert all(torch.tensor(value).isfinite() for value in losses(model, knobs, batch).values())


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (9, 0.0), (10, 0.25), (12, 0.75), (13, 1.0), (500, 1.0)])
def test_kl_weights_warm_up(step: int, share: float) -> None:
    janus, knobs = OBJECTIVES["janus"], JanusObjective(kl_start=10, kl_warmup=4)
    weights = {"kl_ar_aux": 3 * share, "kl_nar_aux": share, "kl_ar_nar": share}
    assert (janus.knobs_at(knobs, step), janus.kl_share(knobs, step)) == (replace(knobs, **weights), share)
    for name, others in CASES:  # without a warm-up, whole from the first update
        assert (OBJECTIVES[name].knobs_at(others, step), OBJECTIVES[name].kl_share(others, step)) == (others, 1.0)


@pytest.mark.parametrize("options", [{}, {"causal_attention": True, "embedding": "concat"}])
@pytest.mark.parametrize("words", [50, 3000])
@pytest.mark.parametrize("index", [0, 1, 2, 3, 5, 6, 7])
def test_the_arithmetic_of_a_step_is_what_torch_counts(
    index: int, options: dict[str, Any], words: int, ragged: Batch
) -> None:
    shape = Model(width=32, feedforward=48, heads=2, encoder_layers=2, decoder_layers=1, max_length=16, dropout=0.0)
    shape = replace(shape, **options)
    model = Transformer(shape, words, words, length_head=True)
    name, knobs = CASES[index]
    plan = made(replace(knobs, replaced=1.0) if name == "cmlmc" else knobs, ragged)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the CPU's kernel is not counted
        found = OBJECTIVES[name].loss(model, ragged, plan, knobs)
        sum(term.weight * term.total * plan.share(term.unit) for term in found.values()).backward()
    # Small products of the losses are not counted here.
    assert counter.get_total_flops() == pytest.approx(plan.flops(shape, words, ragged.source.shape[1]), rel=0.05)
