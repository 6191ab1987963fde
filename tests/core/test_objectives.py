"""Each objective on a tiny model: no distribution sees what it must not, terms add up, padding is nothing."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import Batch, collate
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
from janus_cli.core.objectives import OBJECTIVES, Plan
from janus_cli.core.objectives import janus as janus_module
from janus_cli.core.stream import FIELDS, ar_stream, join

N = 6
SENTENCE = [5, 6, 7, 8, 9, 10]
HIDDEN = (2, 4, 5)  # positions
CASES = [
    ("ar", ArObjective(ar_stream="content")),
    ("ar", ArObjective(ar_stream="query")),
    ("cmlm", CmlmObjective()),
    ("cmlm", CmlmObjective(glance=0.5)),
    ("cmlmc", CmlmcObjective()),
    ("cemat", CematObjective()),
    ("janus", JanusObjective(ar_stream="content")),
    ("janus", JanusObjective(ar_stream="query")),
    ("janus", JanusObjective(correct=0.5, replaced=0.5, noise=Noise(fixed=1.0), glance=0.3)),
    ("xlnet", XlnetObjective()),
    ("xlnet", XlnetObjective(predicted=0.5)),
    ("mpnet", MpnetObjective()),
    ("prophetnet", ProphetnetObjective(ngram=3)),
    ("bang", BangObjective(streams=3)),
]


def make(tokens: list[int], beside: list[int] | None = None) -> Batch:
    """The sentence, next to a longer one so that it is padded."""
    return collate([[5, 6, 7]] * 2, [tokens, beside or [11] * 9], [0, 1])


def states(model: Transformer, batch: Batch, kind: str) -> dict[str, dict[int, Tensor]]:
    """Logits of the first sentence by distribution and position of the predicted token."""
    hidden = torch.zeros_like(batch.target, dtype=torch.bool)
    hidden[0, list(HIDDEN)] = True
    hidden[1, 1] = True
    stream = janus_module.masked(batch.target, hidden)
    ar = ar_stream(batch.target, kind)
    memory = model.encode(batch.source, batch.source_real)
    joined, apart = join([ar, stream])
    ar_states, both = apart(model.decode(joined, memory))
    ar_logits, logits = model.logits(ar_states)[0], model.logits(both)[0]
    width, aux = batch.target.shape[1], logits[stream.keys :]
    found = {
        "ar": dict(enumerate(ar_logits[ar.labelled[0]], 1)),
        "nar": {p: logits[p] for p in HIDDEN},
        "aux": {p: aux[k] for k, p in enumerate(HIDDEN)},
    }
    assert stream.labels[0, :width][list(HIDDEN)].tolist() == [batch.target[0, p] for p in HIDDEN]
    return found


def sees(distribution: str, predicted: int, changed: int) -> bool:
    """Whether the prediction of one position may depend on the real token at another."""
    if distribution == "ar":
        return changed < predicted
    if changed not in HIDDEN:
        return True
    return distribution == "aux" and changed < predicted


@pytest.mark.parametrize("kind", ["content", "query"])
@pytest.mark.parametrize("changed", range(1, N + 1))
def test_no_distribution_sees_what_it_must_not(model: Transformer, kind: str, changed: int) -> None:
    """Change one token: exactly the logits that may see it move."""
    other = list(SENTENCE)
    other[changed - 1] = 15
    before, after = (states(model, make(tokens), kind) for tokens in (SENTENCE, other))
    for distribution, logits in before.items():
        for predicted, value in logits.items():
            moved = not torch.allclose(value, after[distribution][predicted], atol=1e-12)
            assert moved == sees(distribution, predicted, changed), (distribution, predicted)


@pytest.mark.parametrize("kind", ["content", "query"])
def test_the_other_sentence_and_the_amount_of_padding_change_nothing(model: Transformer, kind: str) -> None:
    before, after = (states(model, make(SENTENCE, other), kind) for other in ([11] * 9, [12] * 17))
    for distribution, logits in before.items():
        for predicted, value in logits.items():
            assert torch.allclose(value, after[distribution][predicted], atol=1e-12)


@pytest.mark.parametrize(("name", "knobs"), [case for case in CASES if case[0] in ("ar", "janus")])
def test_the_ar_side_is_trained_on_the_slots_that_it_is_decoded_with(ragged: Batch, name: str, knobs: Any) -> None:
    found = OBJECTIVES[name].plan(ragged, Draws(1, 0, ragged.ids), knobs).streams["ar"]
    expected = ar_stream(ragged.target, knobs.ar_stream)
    assert found.keys == expected.keys
    for field in FIELDS:
        assert torch.equal(getattr(found, field), getattr(expected, field)), field


def test_mpnet_reveals_in_a_random_order() -> None:
    batch = make(list(range(5, 15)))
    plan = OBJECTIVES["mpnet"].plan(batch, Draws(1, 0, batch.ids), MpnetObjective(noise=Noise(full=1.0)))
    stream = plan.streams["permuted"]
    width = batch.target.shape[1]
    order = stream.positions[0, width : width + 10].tolist()  # gold tokens, in the order of their birth
    assert sorted(order) == list(range(1, 11))
    assert order != sorted(order)


UNITS = {
    "ar": {"ce_ar": ("tokens", 1.0)},
    "cmlm": {"ce_nar": ("hidden", 1.0), "length": ("sentences", 0.2)},
    "cmlmc": {"ce_nar": ("hidden", 0.4), "ce_correct": ("wrong", 0.7), "length": ("sentences", 0.2)},
    "cemat": {"ce_encoder": ("unread", 0.4), "ce_nar": ("hidden", 0.7), "length": ("sentences", 0.2)},
    "janus": {
        "ce_ar": ("tokens", 0.9), "ce_nar": ("hidden", 0.4), "ce_aux": ("hidden", 0.7), "kl_ar_aux": ("hidden", 3.0),
        "kl_nar_aux": ("hidden", 1.1), "kl_ar_nar": ("hidden", 1.2), "length": ("sentences", 0.2),
        "ce_correct": ("wrong", 0.3),
    },
    "xlnet": {"ce_permuted": ("hidden", 1.0)},
    "mpnet": {"ce_permuted": ("hidden", 1.0), "length": ("sentences", 0.2)},
    "prophetnet": {"ce_ar": ("tokens", 0.25), "ce_later": ("later", 0.75)},
    "bang": {"ce_ar": ("ar", 0.5), "ce_nar": ("nar", 0.6), "ce_semi": ("semi", 0.7)},
}  # fmt: skip
WRONG: dict[str, Any] = {"replaced": 0.5, "noise": Noise(fixed=1.0)}  # so that some of these few tokens are replaced
WEIGHED: dict[str, Any] = {
    "ar": ArObjective(),
    "cmlm": CmlmObjective(length=0.2),
    "cmlmc": CmlmcObjective(nar=0.4, correct=0.7, length=0.2, **WRONG),
    "cemat": CematObjective(encoder=0.4, nar=0.7, length=0.2),
    "janus": JanusObjective(
        ar=0.9, nar=0.4, aux=0.7, kl_ar_aux=3.0, kl_nar_aux=1.1, kl_ar_nar=1.2, length=0.2, correct=0.3, **WRONG
    ),
    "xlnet": XlnetObjective(),
    "mpnet": MpnetObjective(length=0.2),
    "prophetnet": ProphetnetObjective(ngram=4),
    "bang": BangObjective(ar=0.5, nar=0.6, semi=0.7),
}


@pytest.mark.parametrize("name", UNITS)
def test_each_term_has_its_own_weight_and_unit(model: Transformer, ragged: Batch, name: str) -> None:
    assert set(UNITS) == set(OBJECTIVES)
    knobs, objective = WEIGHED[name], OBJECTIVES[name]
    terms = objective.loss(model, ragged, objective.plan(ragged, Draws(1, 0, ragged.ids), knobs), knobs)
    assert {key: (term.unit, pytest.approx(term.weight)) for key, term in terms.items()} == UNITS[name]


@pytest.mark.parametrize("name", UNITS)
def test_labels_are_smoothed_in_every_cross_entropy(model: Transformer, ragged: Batch, name: str) -> None:
    plain, smooth = (
        loss_of(model, name, replace(WEIGHED[name], label_smoothing=share), ragged) for share in (0.0, 0.5)
    )
    for term, value in plain.items():
        assert (smooth[term] != pytest.approx(value, rel=1e-6)) == term.startswith("ce_"), term


def loss_of(model: Transformer, name: str, knobs: object, batch: Batch, plan: Plan | None = None) -> dict[str, float]:
    objective = OBJECTIVES[name]
    plan = plan or objective.plan(batch, Draws(1, 0, batch.ids), knobs)
    terms = objective.loss(model, batch, plan, knobs)
    return {key: float(term.total.detach()) for key, term in terms.items()}


@pytest.mark.parametrize(("name", "knobs"), CASES)
def test_terms_are_sums_over_sentences(model: Transformer, ragged: Batch, name: str, knobs: object) -> None:
    """A batch costs what its sentences cost alone: nothing depends on neighbours or padding."""
    whole = loss_of(model, name, knobs, ragged)
    assert tuple(whole) == OBJECTIVES[name].terms_with(knobs)
    alone: dict[str, float] = dict.fromkeys(whole, 0.0)
    for row in range(3):
        n, s = int(ragged.target_real[row].sum()), int(ragged.source_real[row].sum())
        one = Batch(ragged.source[row : row + 1, :s], ragged.target[row : row + 1, :n], ragged.ids[row : row + 1])
        for key, value in loss_of(model, name, knobs, one).items():
            alone[key] += value
    assert whole == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize(("name", "knobs"), CASES)
def test_counts_are_the_labelled_slots(ragged: Batch, name: str, knobs: object) -> None:
    plan = OBJECTIVES[name].plan(ragged, Draws(1, 0, ragged.ids), knobs)
    assert plan.counts["tokens"] == 5 + 2 + 3
    assert plan.counts["sentences"] == 3
    labels = {key: int(stream.labelled.sum()) for key, stream in plan.streams.items()}
    counts = plan.counts
    expected = {
        "ar": lambda: {"ar": counts["tokens"]},
        "cmlm": lambda: {"nar": counts["hidden"]},
        "cmlmc": lambda: {"nar": counts["hidden"], "correct": counts["wrong"]},
        "cemat": lambda: {"nar": counts["hidden"]},
        "janus": lambda: (
            {"ar": counts["tokens"], "nar_aux": 2 * counts["hidden"]}
            | ({"correct": counts["wrong"]} if "wrong" in counts else {})
        ),
        "xlnet": lambda: {"permuted": counts["hidden"]},
        "mpnet": lambda: {"permuted": counts["hidden"]},
        "prophetnet": lambda: {"prophets": counts["tokens"] + counts["later"]},
        "bang": lambda: {"bridge": counts["ar"] + counts["nar"] + counts["semi"]},
    }
    assert labels == expected[name]()


@pytest.mark.parametrize(("name", "knobs"), CASES)
def test_every_slot_sees_something_also_in_a_causal_self_attention(ragged: Batch, name: str, knobs: object) -> None:
    plan = OBJECTIVES[name].plan(ragged, Draws(1, 0, ragged.ids), knobs)
    for stream in (*plan.streams.values(), *plan.drafts.values()):
        assert stream.causal.any(-1).all()


def test_janus_without_kl_and_nar_is_ar(model: Transformer, ragged: Batch) -> None:
    assert loss_of(model, "janus", JanusObjective(), ragged)["ce_ar"] == pytest.approx(
        loss_of(model, "ar", ArObjective(), ragged)["ce_ar"], rel=1e-6
    )


def test_janus_nar_is_cmlm_on_the_same_noise(model: Transformer, ragged: Batch) -> None:
    noise = Noise(uniform=1.0)
    ours = loss_of(model, "janus", JanusObjective(noise=noise), ragged)
    theirs = loss_of(model, "cmlm", CmlmObjective(noise=noise), ragged)
    assert ours["ce_nar"] == pytest.approx(theirs["ce_nar"], rel=1e-6)
    assert ours["length"] == pytest.approx(theirs["length"], rel=1e-6)


def test_janus_terms_are_compared_at_the_same_tokens(model: Transformer) -> None:
    """With everything hidden, AUX of the first token sees what NAR sees: KL 0 there, and only there."""
    batch = collate([[5, 6]], [[7]], [0])
    found = loss_of(model, "janus", JanusObjective(noise=Noise(full=1.0), label_smoothing=0.0), batch)
    assert found["kl_nar_aux"] == pytest.approx(0.0, abs=1e-9)
    assert found["ce_nar"] == pytest.approx(found["ce_aux"], rel=1e-9)
    assert found["kl_ar_aux"] > 1e-4


@pytest.mark.parametrize(("name", "knobs"), CASES)
def test_every_weight_gets_gradient(tiny: Model, name: str, knobs: object, ragged: Batch) -> None:
    torch.manual_seed(0)
    objective = OBJECTIVES[name]
    model = Transformer(tiny, 20, 20, length_head=objective.lengths)
    plan = objective.plan(ragged, Draws(1, 0, ragged.ids), knobs)
    terms = objective.loss(model, ragged, plan, knobs)
    torch.stack([term.weight * term.total * plan.share(term.unit) for term in terms.values()]).sum().backward()
    for key, weight in model.named_parameters():
        assert weight.grad is not None, key
        assert torch.isfinite(weight.grad).all(), key


@pytest.mark.parametrize(("name", "knobs"), CASES)
def test_hard_batches_stay_finite(model: Transformer, name: str, knobs: Any) -> None:
    """A target of no tokens, a source of nothing but padding, everything hidden."""
    batch = collate([[], [5]], [[], [6, 7]], [0, 1])
    batch = replace(batch, source=torch.tensor([[0, 0], [5, 3]]))
    if hasattr(knobs, "noise"):
        knobs = replace(knobs, noise=Noise(full=1.0))
    for value in loss_of(model, name, knobs, batch).values():
        assert torch.isfinite(torch.tensor(value))


def test_kl_warmup() -> None:
    knobs = JanusObjective(kl_start=10, kl_warmup=20)
    assert [round(knobs.at(step).kl_ar_aux, 3) for step in (0, 9, 10, 19, 29, 500)] == [0.0, 0.0, 0.15, 1.5, 3.0, 3.0]
    assert JanusObjective().at(0).kl_ar_aux == 3.0
