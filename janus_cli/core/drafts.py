"""What speculative decoding needs of a model: drafts, and passes that verify them; see `core/generate.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_cli.core.batch import BOS, EOS, MASK, PAD
from janus_cli.core.knobs import ARSide, Decoding
from janus_cli.core.search import mask_predict
from janus_cli.core.steps import NEVER_WRITTEN, AllTokens, chosen_at
from janus_cli.core.stream import Stream, base, beside, following, framed, in_span

if TYPE_CHECKING:
    from janus_cli.core.model import Memory, Transformer


def reading(tokens: Tensor, counts: Tensor, size: Tensor, length: int, room: int) -> tuple[Tensor, Tensor]:
    """The first `counts` (A,) of tokens (A, P), then MASKs up to `size` (A,), PAD -> (A, room), and at most `length`
    of the MASKs that are asked for, (A, room) bool."""
    place = torch.arange(room, device=tokens.device)
    known = F.pad(tokens, (0, max(0, room - tokens.shape[1])))[:, :room]
    known = torch.where(place < counts[:, None], known, MASK).masked_fill(place >= size[:, None], PAD)
    return known, (known == MASK) & (place < counts[:, None] + length)


class Draft:
    """The draft of `speculative`: mask-predict over all that is missing up to the predicted length."""

    def __init__(self, model: Transformer, memory: Memory, lengths: Tensor, most: Tensor, options: Decoding) -> None:
        """lengths, most: (B,) int64, predicted length without EOS, and the longest output with EOS."""
        self.model, self.memory, self.options = model, memory, options
        self.lengths, self.most = lengths, (most - 1).clamp(max=model.knobs.max_length - 2)

    def __call__(self, tokens: Tensor, counts: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        written, passes = self.write(*self.reading(tokens, counts, sentences), sentences)
        return self.proposals(written, counts), passes

    def write(self, known: Tensor, asked: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        """What is known with what was asked for (A, T), and the passes (A,) that it took."""
        everyone = len(sentences) == len(self.memory.real)
        step = AllTokens(self.model, self.memory if everyone else self.memory.select(sentences))
        written, _, passes = mask_predict(step, known, self.options.draft_iters, only=asked)
        return written, passes

    def size(self, counts: Tensor, sentences: Tensor) -> Tensor:
        """The length (A,) of the texts that are drafted."""
        return torch.maximum(self.lengths[sentences], counts + 1).minimum(self.most[sentences])

    def reading(self, tokens: Tensor, counts: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        """What a draft reads, and where it writes, (A, T) each; T is the longest `size`."""
        size = self.size(counts, sentences)
        return reading(tokens, counts, size, self.options.draft_length, int(size.max()))

    def proposals(self, written: Tensor, counts: Tensor) -> Tensor:
        """What was written behind the prefix (A, T), and the end of the text if it comes next -> (A, W)."""
        longest = min(self.options.draft_length, written.shape[1] - int(counts.min()))
        places = counts[:, None] + torch.arange(longest + 1, device=written.device)
        found = F.pad(written, (0, 1)).gather(1, places.clamp(max=written.shape[1]))  # behind the longest: PAD
        size = (written != PAD).sum(1, keepdim=True)
        found = torch.where(places == size, EOS, found)
        return found.masked_fill((found == MASK).cumsum(1) > 0, PAD)


def verifying(tokens: Tensor, counts: Tensor, proposals: Tensor, ar_stream: ARSide, most: int) -> tuple[Stream, Tensor]:
    """What a pass reads that verifies: the last of `counts` (A,) tokens (A, P) and the proposals (A, W); and which of
    these W + 1 are no padding. most: positions that the model has."""
    last = F.pad(tokens, (1, 0), value=BOS).gather(1, counts[:, None])
    read = torch.cat([last, proposals], dim=1)  # (A, W + 1)
    stream = following(read, counts, read != PAD, ar_stream)
    # Padding may lie behind the last position that the model has.
    return in_span(stream.replace(positions=stream.positions.clamp(max=most - 1)), 0), read != PAD


def with_draft(stream: Stream, known: Tensor, span: int | Tensor) -> Stream:
    """The same pass writes what is missing of `known` (A, T); in a span of time that no other pass has."""
    target = framed(known)
    return beside(stream, in_span(base(target, torch.zeros_like(target)), span))


class Verify:
    """The verifier of `speculative`: one pass over the last verified token and all that is proposed behind it.

    Slots of a proposal that was refused stay in the cache until the next one is written over them; till then the
    clock hides them, because they are born later than anything that is asked. With `draft` the same pass writes
    the next draft: its slots live in a span of time of their own, another one in each pass.
    """

    def __init__(
        self, model: Transformer, memory: Memory, ar_stream: ARSide, most: Tensor, window: int, draft: Draft | None
    ) -> None:
        self.model, self.memory, self.ar_stream, self.draft = model, memory, ar_stream, draft
        longest = int(most.max())
        self.cache = model.new_cache(len(memory.real), longest + window + 1 + (longest + 2 if draft else 0))
        self.passes = 0

    def __call__(
        self, tokens: Tensor, counts: Tensor, proposals: Tensor, at_end: Tensor, sentences: Tensor, kept: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if kept is not None:
            self.cache.select(kept)
            self.memory = self.memory.select(kept)
        self.cache.at = counts if len(counts) > 1 else int(counts)
        self.passes += 1
        stream, real = verifying(tokens, counts, proposals, self.ar_stream, self.model.knobs.max_length)
        width = real.shape[1]
        known, asked = tokens[:, :0], tokens[:, :0].bool()
        if self.draft is not None:
            known, asked = self.draft.reading(tokens, counts, sentences)
            stream = with_draft(stream, known, self.passes)
        states = self.model.decode(stream, self.memory, self.cache)
        asking = states[:, :width] if self.ar_stream == "content" else states[:, -width:]
        best, logps = chosen_at(self.model, asking, real, NEVER_WRITTEN, at_end)
        if self.draft is None:
            return best, logps, proposals[:, :0]
        writing = states[:, width + 1 : width + 1 + known.shape[1]]  # behind its BOS
        written, _ = chosen_at(self.model, writing, asked, (*NEVER_WRITTEN, EOS))
        return best, logps, self.draft.proposals(torch.where(asked, written, known), counts)
