"""Denoising: from plain text to pairs, by text infilling and sentence permutation (BART, Lewis et al., ACL 2020).

The target is the text; the source is the text with some spans replaced by one MASK each. As in BART-JANUS (Liang et
al., EMNLP 2022) the spans are also the hidden tokens of objectives that hide any, and some of them stay in the source,
so that only the decoder has to do without them:

    text            y1 y2 y3 y4 y5 y6 y7
    hidden             y2 y3    y5 y6
    source          y1 MASK  y4 y5 y6 y7          the second span stays visible

With `ar` this is BART's pre-training, with `bang` BANG's, with `cmlm` a masked one: only the objective differs.

Exactly ceil(share * n) of n tokens are hidden, in spans that do not touch each other, of Poisson lengths. As in BART, a
span of length 0 inserts a MASK; lengths are drawn without 0, and MASKs are inserted as often as there would be zeros,
but not so many that a source would be longer than its text, which the model may not have positions for.
BART draws spans of words, here they are of tokens. A hidden span that crosses the end of a sentence is one MASK, in the
first of the two, also where sentences are shuffled.
"""

from dataclasses import replace
from math import exp
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_cli.core.batch import EOS, MASK, PAD, Batch
from janus_cli.core.knobs import Denoising
from janus_cli.core.noise import Draws, covered, is_text, rank, span_lengths


class Spans(NamedTuple):
    """What is hidden of texts (B, T), all (B, T) bool.

    hidden: tokens that the decoder is not given. unread: those of them that the source lacks, too. inserted: tokens
    before which the source has a MASK that stands for nothing.
    """

    hidden: Tensor
    unread: Tensor
    inserted: Tensor


def denoised(batch: Batch, draws: Draws, knobs: Denoising, ends: Tensor | None = None, frame: int = 0) -> Batch:
    """The batch with a source made of its target, and the hidden tokens of the target.

    ends: (V,) bool, True for tokens that end a sentence; None: no sentence is moved. frame: tokens that every text
    begins with, as with BART's <s>; as in fairseq, they are neither hidden nor moved, and no MASK comes before them.
    """
    before, text = batch.target.split_with_sizes([1 + frame, batch.target.shape[1] - 1 - frame], dim=1)  # BOS as well
    spans = draw_spans(is_text(text), draws, knobs)
    order = torch.zeros_like(text) if ends is None else shuffled(text, ends, draws, knobs.permute)
    hidden = torch.cat([torch.zeros_like(before, dtype=torch.bool), spans.hidden], dim=1)
    return replace(batch, source=torch.cat([before[:, 1:], infilled(text, spans, order)], dim=1), hidden=hidden)


def draw_spans(real: Tensor, draws: Draws, knobs: Denoising) -> Spans:
    """real: (B, T) bool, n True, then False.

    Of the gaps before, between and after the tokens that are not hidden, each holds one span at most; so spans do not
    touch. There are gaps enough, because no more than half of the tokens are hidden.
    """
    width, n = real.shape[1], real.sum(1, keepdim=True)
    allowed = (knobs.share * n.double()).ceil().long()
    length = span_lengths(draws.uniform(width), knobs.span_mean)  # (B, T), one span a column
    before = length.cumsum(1) - length
    length = torch.minimum(length, (allowed - before).clamp(min=0))
    zero = exp(-knobs.span_mean)  # the probability of length 0
    zeros = ((draws.uniform(width) < zero / (1 - zero)) & (length > 0)).sum(1, keepdim=True)
    length = F.pad(length.sort(1, descending=True).values, (0, 1))  # (B, T) -> (B, T + 1)

    count, gap = (length > 0).sum(1, keepdim=True), torch.arange(width + 1, device=real.device)
    is_gap = gap <= n - allowed
    number = rank(draws.uniform(width + 1), is_gap)  # of the span that a gap holds, if there are so many
    length = length.gather(1, number) * is_gap
    start = gap + length.cumsum(1) - length
    seen = draws.uniform(width + 1) < knobs.visible
    hidden, unread = (covered(start, each, width) & real for each in (length, length * ~seen))
    saved = unread.sum(1, keepdim=True) - ((length > 0) & ~seen).sum(1, keepdim=True)  # tokens, less their MASKs
    empty = is_gap & (number >= count) & (number < count + torch.minimum(zeros, saved))
    inserted = covered(start, empty.long(), width)
    return Spans(hidden, unread, inserted)


def shuffled(text: Tensor, ends: Tensor, draws: Draws, probability: float) -> Tensor:
    """For each token the place of its sentence among those of its row, in some rows a new one; (B, T) -> (B, T)."""
    is_end = ends.to(text.device)[text]
    sentence = is_end.cumsum(1) - is_end.long()
    place = torch.arange(text.shape[1], device=text.device)
    exists = place <= sentence.masked_fill(~is_text(text), 0).amax(1, keepdim=True)
    new = rank(draws.uniform(text.shape[1]), exists)
    return torch.where(draws.uniform(1) < probability, new, place.expand_as(new)).gather(1, sentence)


def infilled(text: Tensor, spans: Spans, order: Tensor) -> Tensor:
    """The source: text (B, T) with a MASK for each unread span, sentences by `order` (B, T) -> (B, S), EOS last."""
    first = spans.unread & ~F.pad(spans.unread, (1, -1))
    token = torch.where(spans.unread, torch.where(first, MASK, PAD), text)
    read = torch.stack([torch.where(spans.inserted, MASK, PAD), token], dim=2).flatten(1)  # (B, T, 2) -> (B, 2T)
    last = text.shape[1]  # no sentence has so large a place
    order = order.masked_fill(text == EOS, last)[..., None].expand(-1, -1, 2).flatten(1)
    order = order.masked_fill(read == PAD, last + 1)
    most = int((read != PAD).sum(1).max()) if len(read) else 0
    return read.gather(1, order.argsort(dim=1, stable=True))[:, :most]
