"""A model and a batch of sources -> outputs: what the decoders need of the model, as callables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_cli.core.batch import BOS, EOS, IGNORE, MASK, PAD
from janus_cli.core.decoders import Iteration, Output, beam_search, mask_predict, mean_logp, predicted_lengths
from janus_cli.core.decoders import without_repeats as drop_repeats
from janus_cli.core.stream import NEVER, Stream, base, beside, content, queries

if TYPE_CHECKING:
    from janus_cli.core.transformer import Memory, Transformer
    from janus_cli.recipe import ARStream, Decoding

NEVER_WRITTEN = (PAD, BOS, MASK)
AT_ONCE = 1024  # states turned into logits together: with 32k tokens about 130 MB, whatever the batch


def generate_ar(model: Transformer, source: Tensor, ar_stream: ARStream, options: Decoding) -> list[list[Output]]:
    """Beam search (greedy where `options.beam` is 1): the `options.nbest` best outputs of each sentence, best first.

    source: (B, S) int64, tokens then EOS, PAD behind. Score: sum of log-probabilities / length ** length_penalty.
    """
    with _deciding(model):
        most = most_tokens(source, model, options)
        step = _NextToken(model, source, ar_stream, most)
        return beam_search(step, most, options.beam, options.length_penalty, options.nbest)


def generate_nar(
    model: Transformer, source: Tensor, options: Decoding, ar_stream: ARStream | None = None, trace: bool = False
) -> list[list[Output]]:
    """Mask-predict over a length beam: the `options.nbest` best of `options.length_beam` candidates, best first.

    source: (B, S) int64, tokens then EOS, PAD behind. Score: mean log-probability of a candidate's tokens; with
    `options.rerank` "ar" that of tokens and EOS in one left-to-right pass of the same model (needs `ar_stream`).
    """
    with _deciding(model):
        memory = model.encode(source, source != PAD)
        sizes = predicted_lengths(model.length_logits(memory), options.length_beam, model.knobs.max_length - 2)
        passes: list[tuple[Tensor, ...]] = []
        keep = (lambda _, *state: passes.append(state)) if trace else None
        step = _AllTokens(model, memory, options.update == "all")
        tokens, logps = mask_predict(step, sizes.flatten(), options.iters, options.update, keep)  # (B * length_beam, T)
        if options.remove_repeats:
            tokens, logps = drop_repeats(tokens, logps)
        if options.rerank == "ar":
            assert ar_stream is not None, "without an AR side there is nothing to rerank with"
            scores = ar_scores(model, memory, tokens, ar_stream)
        else:
            scores = mean_logp(tokens, logps)
        count = options.iters + (options.rerank == "ar")
        return _ranked(tokens, logps, scores.view(sizes.shape), options.nbest, count, sizes.flatten(), passes)


def most_tokens(source: Tensor, model: Transformer, options: Decoding) -> Tensor:
    """(B,) the most tokens of an AR output, EOS included: max_ratio * source + max_extra, and what the model holds."""
    lengths = (source != PAD).sum(1) - 1  # EOS
    limit = (lengths * options.max_ratio).long() + options.max_extra + 1
    return limit.clamp(1, model.knobs.max_length - 1)


def ar_scores(model: Transformer, memory: Memory, tokens: Tensor, ar_stream: ARStream) -> Tensor:
    """Mean log-probability in nats of each row's tokens and EOS, read left to right in one pass. (R, T) -> (R,)."""
    target = framed(tokens)
    stream = content(target) if ar_stream == "content" else beside(content(target, predict=False), queries(target))
    asked = stream.labelled
    logps = torch.zeros(asked.shape, device=tokens.device)
    states = model.decode(stream, memory)[asked]  # (R, L, D) -> (N, D)
    logps[asked] = torch.cat(
        [
            log_probabilities(model, part).gather(1, gold[:, None])[:, 0]
            for part, gold in zip(torch.split(states, AT_ONCE), torch.split(stream.labels[asked], AT_ONCE), strict=True)
        ]
    )
    return logps.sum(1) / asked.sum(1)


def framed(tokens: Tensor) -> Tensor:
    """tokens (R, T), PAD behind the end -> (R, T + 2): BOS, tokens, EOS, PAD."""
    target = F.pad(tokens, (1, 1), value=PAD)
    target[:, 0] = BOS
    return target.scatter(1, 1 + (tokens != PAD).sum(1, keepdim=True), EOS)


def log_probabilities(model: Transformer, states: Tensor, never: tuple[int, ...] = NEVER_WRITTEN) -> Tensor:
    """(N, D) -> (N, V) in nats and float32, over the tokens that may be written."""
    logits = model.logits(states).float()
    logits[:, list(never)] = -inf
    return logits.log_softmax(1)


class _NextToken:
    """The step of `beam_search`: one new slot a row (content), or one and a query slot, over cached keys and values."""

    def __init__(self, model: Transformer, source: Tensor, ar_stream: ARStream, most: Tensor) -> None:
        self.model, self.query = model, ar_stream == "query"
        self.memory = model.encode(source, source != PAD)
        self.cache = model.new_cache(len(source), int(most.max()))
        self.position, self.fan = 0, 1

    def __call__(self, last: Tensor, parents: Tensor | None) -> Tensor:
        if parents is not None:
            self._follow(parents)
        states = self.model.decode(self._slots(last), self.memory, self.cache)  # (R, 1 or 2, D)
        self.position += 1
        return log_probabilities(self.model, states[:, -1])

    def _follow(self, parents: Tensor) -> None:
        self.cache.select(parents)
        sentences = torch.unique(parents // self.fan)
        self.fan = len(parents) // len(sentences)
        if len(sentences) < len(self.memory.real):
            self.memory = self.memory.select(sentences)

    def _slots(self, last: Tensor) -> Stream:
        """y_t at position and time t; as in `stream.queries`, the query for y_{t+1} is a MASK half a tick before it."""
        t, shape = self.position, (len(last), 1 + self.query)

        def row(*values: float) -> Tensor:
            return torch.tensor(values[: shape[1]], device=last.device).expand(shape)

        tokens = torch.stack([last, torch.full_like(last, MASK)], dim=1)[:, : shape[1]]
        return Stream(
            tokens,
            row(t, t + 1),
            row(float(t), t + 0.5),
            row(float(t), NEVER),
            row(inf, inf),
            row(IGNORE, IGNORE),
            keys=1,
        )


class _AllTokens:
    """The step of `mask_predict`: one decoder pass over BOS, observed and MASK tokens, EOS; all see each other."""

    def __init__(self, model: Transformer, memory: Memory, everywhere: bool) -> None:
        self.model, self.memory, self.everywhere = model, memory, everywhere

    def __call__(self, tokens: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        target = framed(tokens)
        states = self.model.decode(base(target, torch.zeros_like(target)), self.memory)[:, 1:-1]  # (R, T, D)
        asked = real if self.everywhere else tokens == MASK
        best, logps = torch.full_like(tokens, PAD), torch.zeros(tokens.shape, device=tokens.device)
        parts = [
            log_probabilities(self.model, part, (*NEVER_WRITTEN, EOS)).max(1)
            for part in torch.split(states[asked], AT_ONCE)
        ]
        best[asked] = torch.cat([part.indices for part in parts])
        logps[asked] = torch.cat([part.values for part in parts])
        return best, logps


def _ranked(
    tokens: Tensor,
    logps: Tensor,
    scores: Tensor,
    nbest: int,
    count: int,
    sizes: Tensor,
    passes: list[tuple[Tensor, ...]],
) -> list[list[Output]]:
    """The best candidates of each sentence as outputs. tokens, logps (B * F, T), scores (B, F)."""
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :nbest].tolist()
    fan = scores.shape[1]
    lengths = (tokens != PAD).sum(1).tolist()
    score, token, logp, size = scores.flatten().tolist(), tokens.tolist(), logps.tolist(), sizes.tolist()
    steps = [tuple(part.tolist() for part in state) for state in passes]
    return [
        [
            Output(
                token[row][: lengths[row]], logp[row][: lengths[row]], score[row], count,
                tuple(Iteration(*(part[row][: size[row]] for part in state)) for state in steps),
            )
            for row in (sentence * fan + candidate for candidate in best)
        ]
        for sentence, best in enumerate(order)
    ]  # fmt: skip


@contextmanager
def _deciding(model: Transformer) -> Iterator[None]:
    """No dropout and no gradients, and afterwards the model as it was."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
