"""Speculative decoding: a draft is written non-autoregressively and verified left to right in one pass.

The draft proposes the tokens that follow a verified prefix. One pass of the left-to-right model over all of them gives
its own choice at each place. The longest prefix of the draft on which both agree is accepted, and the model's own
token after it, so each pass adds one token at least, and the text is that of greedy search whatever the draft
(Leviathan et al., ICML 2023, for the sampled case; Stern et al., NeurIPS 2018, for the greedy one).

The next draft may also cost no pass of its own: the model's choices after the first disagreement (`redraft="ar"`;
Jacobi decoding, Santilli et al., ACL 2023), or, where outputs copy much of their source, what follows in the source
(`redraft="source"`; Yang et al. 2023, "Inference with Reference").
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_cli.core.batch import BOS, EOS, PAD
from janus_cli.core.search import Output
from janus_cli.core.search.greedy import finished
from janus_cli.core.shapes import LONGEST

Redraft = Literal["nar", "ar", "source"]
Draft = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Verify = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def speculative(
    draft: Draft, verify: Verify, max_lengths: Tensor, window: int, redraft: Redraft = "nar", *,
    first: int = 0, free_end: bool = False, length_penalty: float = 1.0,
) -> list[Output]:  # fmt: skip
    """The greedy output of each sentence. `passes` counts those that verified and those that wrote drafts.

    Dimensions besides those of `core`: A sentences still decoded, W tokens of a draft, P tokens verified so far.

    Args:
        draft: `draft(tokens, counts, sentences)` -> proposals (A, W) int64 for the places after the prefix, then PAD;
            they may end in EOS; and the decoder passes (A,) that it took. tokens: (A, P) int64, the first
            `counts` (A,) of each row are verified. sentences: (A,) int64, places in the batch.
        verify: `verify(tokens, counts, proposals, at_end, kept)` -> the left-to-right model's choice (A, W + 1) after
            the prefix and after each proposed token, and its log-probability. at_end: (A, W + 1) bool, where EOS is
            the only choice. kept: (A,) int64, the rows of the previous call that continue; None for all.
        max_lengths: (B,) int64, the most tokens of an output, EOS included; at least 1.
        window: the most proposed tokens that are verified in one pass.
        redraft: where later proposals come from; a sentence that has none left is drafted again.
        first: the token that outputs begin with, at no cost; 0: any. length_penalty, free_end: as of `greedy`.
    """
    device, batch = max_lengths.device, len(max_lengths)
    if not batch:
        return []
    longest = int(max_lengths.max())
    tokens = torch.full((batch, longest + window + 1), PAD, device=device)  # room for proposals that are cut off again
    logps = torch.zeros(tokens.shape, device=device)
    passes = torch.zeros_like(max_lengths)
    rows = torch.arange(batch, device=device)
    counts, most = torch.zeros_like(rows), max_lengths
    left, kept = torch.full((batch, 1 if first else 0), first, device=device), None  # the first draft, if it is given
    while len(rows):
        proposals, verified = left, tokens[rows, : int(counts.max())]
        if not left.shape[1] or bool((left[:, 0] == PAD).any()):
            proposals = _drafted(draft, verified, counts, rows, left, passes)
        places = counts[:, None] + torch.arange(1, min(window, proposals.shape[1]) + 2, device=device)
        proposals = proposals[:, :window].masked_fill(places[:, :-1] >= most[:, None], PAD)
        at_end = places == most[:, None]
        best, certainty = verify(verified, counts, proposals, at_end, kept)
        passes[rows] += 1
        begins = (places == 1) & ~at_end & bool(first)
        best, certainty = best.masked_fill(begins, first), certainty.masked_fill(begins | (at_end & free_end), 0.0)

        agreed = (proposals == best[:, :-1]).int().cumprod(1).sum(1)
        ended = (best == EOS).int().argmax(1).masked_fill(~(best == EOS).any(1), best.shape[1])
        fresh = torch.minimum(agreed, ended) + 1  # agreed tokens and the model's own next one, up to EOS
        cut = torch.arange(best.shape[1], device=device) >= fresh[:, None]
        tokens[rows[:, None], places - 1] = best.masked_fill(cut, PAD)
        logps[rows[:, None], places - 1] = certainty.to(logps.dtype).masked_fill(cut, 0.0)
        counts = counts + fresh
        going = ended >= fresh
        left = _behind(_left_over(best, proposals), fresh) if redraft == "ar" else left[:, :0]
        kept = None
        if not bool(going.all()):
            kept = going.nonzero()[:, 0]
            rows, counts, most, left = (t[kept] for t in (rows, counts, most, left))
    return finished(tokens, logps, max_lengths, length_penalty, passes.tolist(), forced=free_end)


def _drafted(draft: Draft, verified: Tensor, counts: Tensor, rows: Tensor, left: Tensor, passes: Tensor) -> Tensor:
    """The proposals left over from verifying, and a new draft for rows without any. left (A, W) -> (A, W')."""
    empty = torch.ones_like(rows, dtype=torch.bool) if not left.shape[1] else left[:, 0] == PAD
    written, took = draft(verified[empty], counts[empty], rows[empty])
    passes[rows[empty]] += took
    width = max(written.shape[1], left.shape[1])
    proposals = torch.full((len(rows), width), PAD, device=rows.device)
    proposals[:, : left.shape[1]] = left
    proposals[empty, : written.shape[1]] = written
    return proposals


def _left_over(best: Tensor, proposals: Tensor) -> Tensor:
    """The model's choices up to EOS, as proposals for the same places. best (A, W + 1) -> (A, W + 1)."""
    width = (proposals != PAD).sum(1, keepdim=True) + 1  # choices after proposed tokens; the rest is padding
    return best.masked_fill(torch.arange(best.shape[1], device=best.device) >= width, PAD)


def _behind(proposals: Tensor, fresh: Tensor) -> Tensor:
    """The proposals (A, W) after the first `fresh` (A,), up to EOS, then PAD."""
    places = fresh[:, None] + torch.arange(proposals.shape[1], device=fresh.device)
    left = proposals.gather(1, places.clamp(max=proposals.shape[1] - 1)).masked_fill(places >= proposals.shape[1], PAD)
    ended = (left == EOS).int()
    return left.masked_fill(ended.cumsum(1) - ended > 0, PAD)


class Copied:
    """A `draft` that takes no pass: the tokens of the source (B, S) that follow what is written.

    It looks in the source for the last two tokens of the prefix, or else for the last one. If there are several such
    places, or none, it takes the place whose number is nearest to theirs. Source and target share their ids.
    """

    def __init__(self, source: Tensor, window: int) -> None:
        self.source, self.window = source, min(window, LONGEST)

    def __call__(self, tokens: Tensor, counts: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        source = self.source[sentences]
        size, written = source.shape[1], F.pad(tokens, (2, 0), value=BOS)
        before, last = (written.gather(1, counts[:, None] + shift) for shift in (0, 1))
        ones = source == last
        twos = ones & (F.pad(source, (1, 0), value=BOS)[:, :-1] == before)
        place = torch.arange(size, device=source.device)
        alike = (ones.long() + twos) * 2 * (size + tokens.shape[1]) - (place + 1 - counts[:, None]).abs()
        start = torch.where(counts > 0, alike.argmax(1) + 1, 0)
        proposals = F.pad(source, (0, self.window + 1), value=PAD).gather(
            1, start[:, None] + torch.arange(self.window, device=source.device)
        )
        return proposals, torch.zeros_like(counts)
