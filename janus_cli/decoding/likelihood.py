"""The probability of given translations: P_AR, P_NAR and P_AUX of their tokens, in one decoder pass each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from janus_cli.core.batch import PAD, pad
from janus_cli.core.model import Transformer
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.core.steps import token_logps
from janus_cli.core.stream import Stream, ar_stream, beside, content, framed, future, left_to_right, masked, revealed
from janus_cli.core.writing import Unwritten, never_written
from janus_cli.decoding.modes import Plan


@dataclass(frozen=True)
class Score:
    """Log-probabilities in nats of one translation, given its source; normalised over the tokens that may be written.

    tokens: the translation's pieces. logps: of each predicted token, from left to right. `ar` predicts all tokens, then
    </s> (but not where the length is predicted first, as in mpnet). `nar` and `aux` predict the hidden tokens; where an
    objective predicts no length (bang), `nar` predicts all tokens and </s>. cut: tokens at the source's end that
    the model does not read.
    """

    tokens: list[str]
    logps: dict[str, list[float]]
    cut: int = 0

    @property
    def ar(self) -> float | None:
        """log P_AR(translation | source); None if the objective has no AR side."""
        return self._total("ar")

    @property
    def nar(self) -> float | None:
        """Sum over hidden tokens of log P_NAR(token | source, observed tokens); None without an NAR side."""
        return self._total("nar")

    @property
    def aux(self) -> float | None:
        """Sum over hidden tokens of log P_AUX(token | source, observed tokens, tokens before it); JANUS only."""
        return self._total("aux")

    def _total(self, name: str) -> float | None:
        return sum(self.logps[name]) if name in self.logps else None


def token_logps_of(
    model: Transformer, plan: Plan, source: Tensor, rows: Sequence[list[int]], hidden: Sequence[Collection[int]]
) -> Iterator[dict[str, list[float]]]:
    """`Score.logps` of each row of target ids.

    source: (B, S) int64, tokens then EOS, PAD on the right. hidden: positions in each row, from 0.
    """
    target = framed(pad(rows)).to(source.device)  # (B, T): BOS, tokens, EOS, PAD
    chosen = torch.zeros(target.shape, dtype=torch.bool, device=source.device)
    for row, places in enumerate(hidden):
        chosen[row, [place + 1 for place in places]] = True
    logps: dict[str, list[list[float]]] = {}
    with torch.inference_mode():
        memory = model.encode(source, source != PAD)
        for name, stream, never in _streams(plan, target, chosen):
            asked = stream.labelled
            states = model.decode(stream, memory)[asked]  # (B, L, D) -> (N, D)
            found = token_logps(model, states, stream.labels[asked], never)
            logps[name] = [part.tolist() for part in found.split(asked.sum(1).tolist())]
    return ({name: each[row] for name, each in logps.items()} for row in range(len(rows)))


def _streams(plan: Plan, target: Tensor, hidden: Tensor) -> Iterator[tuple[str, Stream, Unwritten]]:
    """Each distribution's name, the stream whose labelled slots predict it, and what has no probability."""
    never = Unwritten(never_written(replace(plan.options, unk="keep")).shared)
    if (side := plan.recipe.ar_stream) is not None:
        yield "ar", ar_stream(target, side), never.or_eos if side == "masks" else never
    objective = plan.recipe.objective
    if objective.blocks:
        step = torch.arange(1, target.shape[1], device=target.device)
        all_at_once = future(target, torch.zeros_like(step), step, alone=False)
        yield "nar", beside(content(target).unlabelled, all_at_once), never
    elif "nar" in objective.sides:
        yield "nar", masked(target, left_to_right(hidden)), never.or_eos
    if "ce_aux" in OBJECTIVES[objective.name].terms:
        rank = left_to_right(hidden)
        yield "aux", beside(masked(target, rank).unlabelled, *revealed(target, rank)), never.or_eos
