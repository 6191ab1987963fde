"""What the CPU's tests have shown, on a GPU: the same losses, gradients and texts, with and without recordings."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import EOS, SPECIAL, Batch, collate, pad
from janus_cli.core.generate import Generator, generate
from janus_cli.core.knobs import ARSide, Decoding, Mode, Model
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES
from tests.core.test_objectives import CASES

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
WORDS = 60


def model_of(device: str, dtype: torch.dtype = torch.float64, **options: Any) -> Transformer:
    torch.manual_seed(1)
    knobs = Model(
        width=64, feedforward=96, heads=4, encoder_layers=2, decoder_layers=2, max_length=40, dropout=0.0,
        embedding_scale=False, tie="none", **options,
    )  # fmt: skip
    model = Transformer(knobs, WORDS, WORDS, length_head=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:  # so that what is written depends on the source and on all that is written
                weight.mul_(3.0 if re.search("cross|attention", name) else 1.0)
    return model.to(dtype).to(device)


def rows(count: int, most: int, seed: int = 3) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(SPECIAL, WORDS) for _ in range(draw.randint(1, most))] for _ in range(count)]


def gradients(model: Transformer, name: str, knobs: Any, batch: Batch) -> tuple[dict[str, float], dict[str, Tensor]]:
    device = model.output_weight.device
    objective = OBJECTIVES[name]
    model.train()
    plan = objective.plan(batch, Draws(1, 0, batch.ids), knobs)
    terms = objective.loss(model, batch.to(device), replace(plan.to(device), whole=plan.counts), knobs)
    torch.stack([term.weight * term.total * plan.share(term.unit) for term in terms.values()]).sum().backward()
    slopes = {key: weight.grad.cpu() for key, weight in model.named_parameters() if weight.grad is not None}
    return {key: float(term.total.detach()) for key, term in terms.items()}, slopes


@pytest.mark.parametrize(("name", "knobs"), CASES, ids=str)
def test_losses_and_gradients_are_those_of_the_cpu(name: str, knobs: Any) -> None:
    batch = collate(rows(20, 12), rows(20, 12, 4), range(20))
    options = {"causal_attention": True, "embedding": "concat"} if name == "cmlmc" else {}
    expected, slopes = gradients(model_of("cpu", **options), name, knobs, batch)
    found, others = gradients(model_of("cuda", **options), name, knobs, batch)
    assert found == pytest.approx(expected, rel=1e-6)  # the length's is float32
    assert others.keys() == slopes.keys()
    for key, slope in slopes.items():
        torch.testing.assert_close(others[key], slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_flex_attention_is_the_dense_one(precision: torch.dtype) -> None:
    batch = collate(rows(30, 30), rows(30, 30, 4), range(30))
    name, knobs = next(case for case in CASES if case[0] == "janus")
    with torch.autocast("cuda", precision, enabled=precision != torch.float32):
        expected, slopes = gradients(model_of("cuda", torch.float32), name, knobs, batch)
        found, others = gradients(model_of("cuda", torch.float32, attention="flex"), name, knobs, batch)
    close = 1e-3 if precision == torch.float32 else 3e-2
    assert found == pytest.approx(expected, rel=close, abs=close)
    for key, slope in slopes.items():
        assert (others[key] - slope).norm() <= 5 * close * (slope.norm() + 1e-3), key


DECODINGS: list[tuple[Mode, dict[str, Any]]] = [
    ("ar", {"beam": 1}),
    ("ar", {"beam": 5}),
    ("ar", {"temperature": 0.8, "nbest": 3, "top_p": 0.9}),
    ("ar", {"beam": 4, "nbest": 4, "diversity": 0.5}),
    ("ar", {"beam": 1, "no_repeat_ngram": 2, "unk": "ban"}),
    ("nar", {"iters": 1, "length_beam": 1}),
    ("nar", {"iters": 4, "length_beam": 3}),
    ("nar", {"iters": 10, "length_beam": 3, "rerank": "ar"}),
    ("spec", {"redraft": "nar"}),
    ("spec", {"redraft": "ar"}),
    ("semi", {"block": 3}),
]


CASES_OF_DECODING: list[tuple[Mode, dict[str, Any], ARSide]] = [
    (mode, knobs, side)
    for mode, knobs in DECODINGS
    for side in ("content", "query", "self", "masks")
    if mode != "spec" or side in ("content", "query")  # no objective has both
]


@pytest.mark.parametrize(("mode", "knobs", "side"), CASES_OF_DECODING, ids=str)
def test_texts_are_those_of_the_cpu(mode: Mode, knobs: dict[str, Any], side: ARSide) -> None:
    options = Decoding(**knobs)
    here, there = model_of("cpu").eval(), model_of("cuda").eval()
    recorded = Generator(there)
    for some in (rows(1, 6), rows(4, 20), rows(1, 6, 5), rows(12, 9), rows(4, 20, 6)):
        source = pad([[*row, EOS] for row in some])
        outputs = [one[0] for one in generate(here, source, mode, options, side)]
        expected, scores = [(one.tokens, one.passes) for one in outputs], [one.score for one in outputs]
        for decode in (Generator(there, changing=True), recorded):
            found = decode(source.cuda(), mode, options, side)
            assert [(one[0].tokens, one[0].passes) for one in found] == expected
            assert [one[0].score for one in found] == pytest.approx(scores)
    assert bool(recorded.recordings.sources) == (mode != "semi" and (mode, side) != ("ar", "masks"))


def test_recordings_in_bf16_say_what_the_passes_say() -> None:
    model = model_of("cuda", torch.bfloat16).eval()
    ways = Generator(model, changing=True), Generator(model)
    for seed in range(20):
        source = pad([[*row, EOS] for row in rows(1, 20, seed)]).cuda()
        (one,), (other,) = (decode(source, "nar", Decoding(iters=1), "content")[0] for decode in ways)
        assert len(one.tokens) == len(other.tokens)
        assert other.score == pytest.approx(one.score, abs=0.05)
