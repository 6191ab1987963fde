"""The steps of left-to-right and speculative search over buffers that stay where they are; see `core/recorded.py`.

A recording has a row for every sentence or hypothesis that the search began with. Which of them are the rows of the
search, some of whose sentences have ended, is kept here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_cli.core.batch import BOS, EOS, PAD
from janus_cli.core.drafts import Draft, reading, verifying, with_draft
from janus_cli.core.knobs import ARSide, Decoding
from janus_cli.core.recorded import Source, padded
from janus_cli.core.steps import NEVER_WRITTEN, choices, log_probabilities
from janus_cli.core.stream import NEVER, following


class Next:
    """One pass of left-to-right search over `beam` rows of each sentence, with its cache."""

    def __init__(self, source: Source, ar_stream: ARSide, beam: int, room: int) -> None:
        self.source, self.ar_stream, self.beam = source, ar_stream, beam
        rows = len(source.memory.real) * beam
        self.cache = source.model.new_cache(rows, room, fixed=True)
        self.position = torch.zeros(rows, dtype=torch.int64, device=source.memory.real.device)
        self.rows = torch.arange(rows, device=self.position.device)
        self.run = source.replay(self._best if beam == 1 else self._log_probabilities)

    def begin(self) -> None:
        """Before a text's first token."""
        self.run.prepare(torch.full_like(self.rows, BOS), self.rows < 0 if self.beam == 1 else self.rows)
        self.position.zero_()  # what an earlier text has left in the cache is born later than what comes

    def _states(self, last: Tensor) -> Tensor:
        real = torch.ones_like(last, dtype=torch.bool)
        self.cache.at = self.position.clone()
        stream = following(last[:, None], self.position, real[:, None], self.ar_stream)
        states = self.source.model.decode(stream, self.source.memory, self.cache)[:, -1]
        self.position.add_(1)
        return states

    def _best(self, last: Tensor, at_end: Tensor) -> tuple[Tensor, ...]:
        return choices(self.source.model, self._states(last), NEVER_WRITTEN, at_end)

    def _log_probabilities(self, last: Tensor, order: Tensor) -> tuple[Tensor, ...]:
        self.cache.reorder(order)
        return (log_probabilities(self.source.model, self._states(last)),)


class NextRecorded:
    """As `steps.NextToken`; knows which rows of the recording are the rows of the search."""

    def __init__(self, source: Source, ar_stream: ARSide, beam: int, most: Tensor) -> None:
        room = padded(int(most.max()) + 1, source.model.knobs.max_length)
        key = "next", room, beam, ar_stream
        self.step: Next = source.known(key, lambda: Next(source, ar_stream, beam, room))
        self.step.begin()
        self.last = torch.full_like(self.step.rows, BOS)
        self.rows = self.step.rows[::beam]  # at first one of each sentence

    def best(self, last: Tensor, kept: Tensor | None, at_end: Tensor) -> tuple[Tensor, Tensor]:
        """For `greedy`: the best token and its log-probability; each (R,)."""
        if kept is not None:
            self.rows = self.rows[kept]
        ends = (self.step.rows < 0).index_copy(0, self.rows, at_end)
        best, logps = self.step.run(self.last.index_copy_(0, self.rows, last), ends)
        return best[self.rows], logps[self.rows]

    def __call__(self, last: Tensor, parents: Tensor | None) -> Tensor:
        """For `beam_search`: (R, V) log-probabilities."""
        order = self.step.rows
        if parents is not None:
            before, beam = self.rows[parents], self.step.beam
            sentences = torch.unique_consecutive(before // beam)
            fan = len(before) // len(sentences)
            self.rows = (sentences[:, None] * beam + order[:fan]).flatten()
            order = order.index_copy(0, self.rows, before)
        (logps,) = self.step.run(self.last.index_copy_(0, self.rows, last), order)
        return logps[self.rows]


class Verifying:
    """One pass over proposals and, with `draft_length`, over the next draft, with its cache."""

    def __init__(self, source: Source, ar_stream: ARSide, width: int, room: int, draft_length: int) -> None:
        """width: of proposals. room: of verified tokens. draft_length: 0 where no draft is written."""
        self.source, self.ar_stream = source, ar_stream
        self.width, self.room, self.draft_length = width, room, draft_length
        rows, device = len(source.memory.real), source.memory.real.device
        slots = room + width + 2 + (room + 2 if draft_length else 0)
        self.cache = source.model.new_cache(rows, slots, fixed=True)
        self.rows = torch.arange(rows, device=device)
        tokens = torch.full((rows, room), PAD, device=device)
        proposals = torch.full((rows, width), PAD, device=device)
        at_end = torch.zeros((rows, width + 1), dtype=torch.bool, device=device)
        # Of a row that is not there: tokens, counts, proposals, at_end, and the size of its draft.
        self.blank = [tokens, torch.zeros_like(self.rows), proposals, at_end, torch.ones_like(self.rows)]
        self.span = torch.ones((), dtype=torch.float32, device=device)
        self.run = source.replay(self._pass)

    def begin(self) -> None:
        """Before a text's first token."""
        self.run.prepare(*self.blank, self.span)
        self.cache.birth.fill_(NEVER)  # spans of time come again

    def _pass(
        self, tokens: Tensor, counts: Tensor, proposals: Tensor, at_end: Tensor, size: Tensor, span: Tensor
    ) -> tuple[Tensor, ...]:
        model = self.source.model
        self.cache.at = counts
        stream, real = verifying(tokens, counts, proposals, self.ar_stream, model.knobs.max_length)
        width = real.shape[1]
        if self.draft_length:
            known, asked = reading(tokens, counts, size, self.draft_length, self.room)
            stream = with_draft(stream, known, span)
        states = model.decode(stream, self.source.memory, self.cache)
        asking = states[:, :width] if self.ar_stream == "content" else states[:, -width:]
        best, logps = choices(model, asking.flatten(0, 1), NEVER_WRITTEN, at_end.flatten())
        found = best.view(real.shape).masked_fill(~real, PAD), logps.view(real.shape).masked_fill(~real, 0.0)
        if not self.draft_length:
            return found
        writing = states[:, width + 1 : width + 1 + self.room]  # behind its BOS
        written, _ = choices(model, writing.flatten(0, 1), (*NEVER_WRITTEN, EOS))
        return *found, torch.where(asked, written.view(asked.shape), known)


class VerifyRecorded:
    """As `drafts.Verify`."""

    def __init__(self, source: Source, ar_stream: ARSide, most: Tensor, window: int, draft: Draft | None) -> None:
        longest = source.model.knobs.max_length
        width, room = padded(window, longest), padded(int(most.max()), longest - 2)
        length = draft.options.draft_length if draft else 0
        key = "verify", width, room, length, ar_stream
        self.step: Verifying = source.known(key, lambda: Verifying(source, ar_stream, width, room, length))
        self.step.begin()
        self.draft, self.rows, self.passes = draft, self.step.rows, 0

    def __call__(
        self, tokens: Tensor, counts: Tensor, proposals: Tensor, at_end: Tensor, sentences: Tensor, kept: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if kept is not None:
            self.rows = self.rows[kept]
        self.passes += 1
        size = self.draft.size(counts, sentences) if self.draft else torch.ones_like(counts)
        given = []
        for blank, part in zip(self.step.blank, (tokens, counts, proposals, at_end, size), strict=True):
            wide = part if part.dim() == 1 else F.pad(part, (0, blank.shape[1] - part.shape[1]))  # PAD, False
            given.append(blank.index_copy(0, self.rows, wide))
        best, logps, *written = self.step.run(*given, self.step.span * self.passes)
        shape = slice(None, at_end.shape[1])
        best, logps = best[self.rows, shape], logps[self.rows, shape]
        if self.draft is None:
            return best, logps, proposals[:, :0]
        return best, logps, self.draft.proposals(written[0][self.rows], counts)


class DraftRecorded(Draft):
    """As `drafts.Draft`."""

    def __init__(self, source: Source, lengths: Tensor, most: Tensor, options: Decoding) -> None:
        super().__init__(source.model, source.memory, lengths, most, options)
        self.source = source

    def write(self, known: Tensor, asked: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        if len(sentences) < len(self.lengths):
            rows = torch.full((len(self.lengths), known.shape[1]), PAD, device=known.device)
            known = rows.index_copy(0, sentences, known)
            asked = torch.zeros_like(rows, dtype=torch.bool).index_copy(0, sentences, asked)
        written, _, passes = self.source.mask_predict(known, self.options.draft_iters, only=asked)
        return written[sentences], passes[sentences]
