"""Counted arithmetic against a count by hand, and against what torch counts while it computes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from janus_cli.core import flops
from janus_cli.core.batch import Batch
from janus_cli.core.knobs import ArObjective, CematObjective, CmlmcObjective, CmlmObjective, JanusObjective, Model
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES


def test_a_forward_pass_by_hand() -> None:
    knobs = Model(width=4, feedforward=6, heads=2, encoder_layers=1, decoder_layers=2, max_length=16)
    # Projections 4 x 4: of 3 source tokens four each; of 2 slots 2 x (q, out), of 2 keys 2 x (k, v); scores and sums.
    encoder = 2 * (4 * 3 * 16 + 2 * 3 * 3 * 4) + 2 * 2 * 3 * 4 * 6
    itself = 2 * (2 * 2 * 16 + 2 * 2 * 16 + 2 * 2 * 2 * 4)
    cross = 2 * (2 * 2 * 16 + 2 * 3 * 16 + 2 * 2 * 3 * 4)
    decoder = itself + cross + 2 * 2 * 2 * 4 * 6
    assert flops.forward(knobs, 10, 1, 3, 2, 2, 2) == encoder + 2 * decoder + 2 * 2 * 4 * 10
    assert flops.forward(knobs, 10, 5, 3, 2, 2, 10) == 5 * flops.forward(knobs, 10, 1, 3, 2, 2, 2)


@pytest.mark.parametrize(
    "knobs",
    [
        ArObjective(), ArObjective(ar_stream="query"), CmlmObjective(), CmlmcObjective(replaced=1.0), CematObjective(),
        JanusObjective(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"causal_attention": True, "embedding": "concat"}])
@pytest.mark.parametrize("words", [50, 3000])
def test_a_step_is_what_torch_counts(knobs: Any, options: dict[str, Any], words: int, ragged: Batch) -> None:
    torch.manual_seed(1)
    shape = Model(width=32, feedforward=48, heads=2, encoder_layers=2, decoder_layers=1, max_length=16, dropout=0.0)
    shape = replace(shape, **options)
    model = Transformer(shape, words, words, length_head=True)
    objective = OBJECTIVES[knobs.name]
    plan = objective.plan(ragged, Draws(1, 0, ragged.ids), knobs)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the CPU's kernel is not counted
        terms = objective.loss(model, ragged, plan, knobs)
        sum(term.weight * term.total * plan.share(term.unit) for term in terms.values()).backward()
    expected = flops.step(shape, words, ragged.source.shape[1], plan)
    # Small products of the losses are not in `expected`.
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.05)
