"""A model and a batch of sources -> outputs: the decoders, with the model's steps put in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from janus_cli.core.batch import PAD
from janus_cli.core.drafts import Draft, Verify
from janus_cli.core.knobs import ARSide, Decoding
from janus_cli.core.recorded import MOST_ROWS, Source
from janus_cli.core.recorded_steps import DraftRecorded, NextRecorded, VerifyRecorded
from janus_cli.core.search import (
    Iteration,
    Output,
    beam_search,
    greedy,
    mask_predict,
    masks,
    mean_logp,
    predicted_lengths,
    speculative,
    write_blocks,
)
from janus_cli.core.search import without_repeats as drop_repeats
from janus_cli.core.steps import (
    AllTokens,
    NextBlock,
    NextOfLength,
    NextToken,
    at_once,
    log_probabilities,
)
from janus_cli.core.stream import ar_stream as training_stream
from janus_cli.core.stream import framed

if TYPE_CHECKING:
    from janus_cli.core.model import Memory, Transformer

Mode = Literal["ar", "nar", "semi", "spec"]


def generate(
    model: Transformer, source: Tensor, mode: Mode, options: Decoding, ar_stream: ARSide | None, trace: bool = False
) -> list[list[Output]]:
    """What the mode's function below gives; without a length head, `nar` is one block for all.

    source: (B, S) int64, tokens then EOS, PAD behind. ar_stream: None where there is no AR side.
    """
    if mode == "semi":
        return generate_blocks(model, source, options, options.block)
    if mode == "nar" and model.length_table is None:
        return generate_blocks(model, source, options, None)
    if mode == "nar":
        return generate_nar(model, source, options, ar_stream, trace)
    assert ar_stream is not None, f"{mode} needs an AR side"
    return (generate_ar if mode == "ar" else generate_spec)(model, source, ar_stream, options)


def generate_ar(model: Transformer, source: Tensor, ar_stream: ARSide, options: Decoding) -> list[list[Output]]:
    """Beam search (greedy where `options.beam` is 1): the `options.nbest` best outputs of each sentence, best first.

    source: (B, S) int64, tokens then EOS, PAD behind. Score: sum of log-probabilities / length ** length_penalty.
    An AR side of `masks` writes as many tokens as the length head finds likeliest.
    """
    with _deciding(model):
        most = most_tokens(source, model, options)
        step: NextToken | NextRecorded
        if ar_stream != "masks" and (recorded := _recorded(model, source, options, options.beam)):
            step = NextRecorded(recorded, ar_stream, options.beam, most)
        elif ar_stream == "masks":
            memory = model.encode(source, source != PAD)
            (lengths,) = predicted_lengths(model.length_logits(memory), 1, model.knobs.max_length - 2).T
            most = lengths + 1
            step = NextOfLength(model, memory, lengths)
        else:
            step = NextToken(model, model.encode(source, source != PAD), ar_stream, most)
        if options.beam == 1:
            found = [[output] for output in greedy(step.best, most, options.length_penalty)]
        else:
            found = beam_search(step, most, options.beam, options.length_penalty, options.nbest)
        if ar_stream == "masks":  # the MASKs, which stand for the length, took a pass of their own
            return [[replace(output, passes=output.passes + 1) for output in outputs] for outputs in found]
        return found


def generate_spec(model: Transformer, source: Tensor, ar_stream: ARSide, options: Decoding) -> list[list[Output]]:
    """Speculative decoding: what greedy `generate_ar` gives, drafted by the NAR side and verified by the AR side.

    source: (B, S) int64, tokens then EOS, PAD behind. The text equals greedy's wherever the best token leads by more
    than the rounding between one pass over several tokens and one pass for each (see the README, Limits).
    """
    with _deciding(model):
        most, joint = most_tokens(source, model, options), options.redraft == "joint"
        recorded = _recorded(model, source, options, 1)
        memory = recorded.memory if recorded else model.encode(source, source != PAD)
        (lengths,) = predicted_lengths(model.length_logits(memory), 1, model.knobs.max_length - 2).T
        window = min(options.verify_window, int(most.max()))
        draft: Draft
        verify: Verify | VerifyRecorded
        if recorded:
            draft = DraftRecorded(recorded, lengths, most, options)
            verify = VerifyRecorded(recorded, ar_stream, most, window, draft if joint else None)
        else:
            draft = Draft(model, memory, lengths, most, options)
            verify = Verify(model, memory, ar_stream, most, window, draft if joint else None)
        return [[output] for output in speculative(draft, verify, most, window, options.redraft)]


def generate_blocks(model: Transformer, source: Tensor, options: Decoding, block: int | None) -> list[list[Output]]:
    """One output of each sentence, `block` tokens a pass (None: all in one) up to the first EOS.

    source: (B, S) int64, tokens then EOS, PAD behind. Score: mean log-probability of the tokens.
    """
    with _deciding(model):
        most = most_tokens(source, model, options)
        step = NextBlock(model, model.encode(source, source != PAD), most, block or int(most.max()))
        tokens, logps, passes = write_blocks(step, most, block)
        if options.remove_repeats:
            tokens, logps = drop_repeats(tokens, logps)
        scores = mean_logp(tokens, logps)[:, None]
        return _ranked(tokens, logps, scores, 1, passes.tolist(), (tokens != PAD).sum(1), [])


def generate_nar(
    model: Transformer, source: Tensor, options: Decoding, ar_stream: ARSide | None = None, trace: bool = False
) -> list[list[Output]]:
    """Mask-predict over a length beam: the `options.nbest` best of `options.length_beam` candidates, best first.

    source: (B, S) int64, tokens then EOS, PAD behind. Score: mean log-probability of a candidate's tokens; with
    `options.rerank` "ar" that in one left-to-right pass of the same model (needs `ar_stream`), EOS included.
    """
    with _deciding(model):
        fan, passes = options.length_beam, list[tuple[Tensor, ...]]()
        recorded = None if trace else _recorded(model, source, options, fan)
        memory = recorded.memory if recorded else model.encode(source, source != PAD)
        sizes = predicted_lengths(model.length_logits(memory), fan, model.knobs.max_length - 2)
        blank = masks(sizes.flatten())
        if recorded:
            tokens, logps, passed = recorded.mask_predict(blank, options.iters, options.update, fan)
        else:
            keep = (lambda _, *state: passes.append(state)) if trace else None
            step = AllTokens(model, memory)
            tokens, logps, passed = mask_predict(step, blank, options.iters, update=options.update, fan=fan, trace=keep)
        # (B * fan, T), (B * fan, T), (B,)
        if options.remove_repeats:
            tokens, logps = drop_repeats(tokens, logps)
        if options.rerank == "ar":
            assert ar_stream is not None, "without an AR side there is nothing to rerank with"
            if recorded and ar_stream != "masks":  # whose slots are as many as there are tokens
                scores = recorded.ar_scores(tokens, ar_stream)
            else:
                scores = ar_scores(model, memory, tokens, ar_stream)
        else:
            scores = mean_logp(tokens, logps)
        counts = (passed + (options.rerank == "ar")).tolist()
        return _ranked(tokens, logps, scores.view(sizes.shape), options.nbest, counts, sizes.flatten(), passes)


def _recorded(model: Transformer, source: Tensor, options: Decoding, fan: int) -> Source | None:
    """The encoded sources, where passes over `fan` rows of each are to be replayed."""
    wanted = options.cuda_graphs and model.knobs.attention != "flex"  # which compiles itself as it goes
    if model.recordings is None or not wanted or not 0 < len(source) * fan <= MOST_ROWS:
        return None
    return model.recordings.read(source)


def most_tokens(source: Tensor, model: Transformer, options: Decoding) -> Tensor:
    """(B,) the most tokens of an AR output, EOS included: max_ratio * source + max_extra, and what the model holds."""
    return length_limit((source != PAD).sum(1) - 1, model.knobs.max_length, options)  # EOS


def length_limit(lengths: Tensor, max_length: int, options: Decoding) -> Tensor:
    """`most_tokens` from the lengths of sources without EOS, (B,) int64, and the positions of the model."""
    limit = (lengths * options.max_ratio).long() + options.max_extra + 1
    return limit.clamp(1, max_length - 1)


def ar_scores(model: Transformer, memory: Memory, tokens: Tensor, ar_stream: ARSide) -> Tensor:
    """Mean log-probability in nats of each row's tokens and EOS, read left to right in one pass. (R, T) -> (R,).

    An AR side of `masks` knows the length, and neither predicts EOS nor has it to choose.
    """
    never = NextOfLength.never if ar_stream == "masks" else NextToken.never
    target = framed(tokens)
    stream = training_stream(target, ar_stream)
    asked = stream.labelled
    states, gold = model.decode(stream, memory)[asked], stream.labels[asked]  # (R, L, D) -> (N, D), (N,)
    count = at_once(model)
    found = [
        log_probabilities(model, some, never).gather(1, token[:, None])[:, 0]
        for some, token in zip(states.split(count), gold.split(count), strict=True)
    ]
    logps = torch.zeros(asked.shape, dtype=found[0].dtype, device=tokens.device)
    logps[asked] = torch.cat(found)
    return logps.sum(1) / asked.sum(1)


def _ranked(
    tokens: Tensor,
    logps: Tensor,
    scores: Tensor,
    nbest: int,
    counts: list[int],
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
                token[row][: lengths[row]], logp[row][: lengths[row]], score[row], counts[sentence],
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
    if training:  # asked first: going through all modules takes longer than a decoder pass
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if training:
            model.train()
