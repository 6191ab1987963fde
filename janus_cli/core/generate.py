"""A model and a batch of sources -> outputs: the searches, with the model's steps put in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from janus_cli.core.batch import PAD
from janus_cli.core.graphs import MOST_ROWS, RecordedDraft, RecordedNext, RecordedSource, Recordings
from janus_cli.core.knobs import ARSide, Decoding
from janus_cli.core.model import Memory, Transformer
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
    without_repeats,
    write_blocks,
)
from janus_cli.core.steps import AllTokens, Draft, NextBlock, NextOfLength, NextToken, Verify, ar_scores

Mode = Literal["ar", "nar", "semi", "spec"]


def generate(
    model: Transformer, source: Tensor, mode: Mode, options: Decoding, side: ARSide | None, trace: bool = False,
    recordings: Recordings | None = None,
) -> list[list[Output]]:  # fmt: skip
    """The outputs of each sentence, best first, as the mode's function below makes them.

    Args:
        model: in training mode or not, and left so; there is no dropout here.
        source: (B, S) int64, tokens then EOS, PAD behind.
        side: the model's AR side, None where it has none.
        trace: of `nar` with lengths, keep what every pass wrote.
        recordings: of this model, to be used where they pay.
    """
    with _deciding(model):
        if mode == "semi" or (mode == "nar" and model.length_table is None):  # without lengths, one block for all
            return _blocks(model, source, options, options.block if mode == "semi" else None)
        if mode == "nar":
            return _nar(model, source, options, side, trace, recordings)
        assert side is not None, f"{mode} needs an AR side"
        return (_ar if mode == "ar" else _spec)(model, source, options, side, recordings)


class Generator:
    """A model that does nothing but generate: its weights are packed for a CPU, its passes recorded on a GPU.

    The weights must not change from now on; `model.train()` unpacks them.
    """

    def __init__(self, model: Transformer) -> None:
        self.model = model.eval()
        self.recordings = Recordings(model) if model.output_weight.device.type == "cuda" else None
        model.pack()

    def __call__(
        self, source: Tensor, mode: Mode, options: Decoding, side: ARSide | None, trace: bool = False
    ) -> list[list[Output]]:
        """As `generate`."""
        return generate(self.model, source, mode, options, side, trace, self.recordings)

    def forget(self) -> None:
        """Frees what was recorded so far."""
        if self.recordings is not None:
            self.recordings.forget()


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


def _read(
    model: Transformer, source: Tensor, options: Decoding, fan: int, recordings: Recordings | None
) -> tuple[RecordedSource | None, Memory]:
    """The encoded sources; first their recordings, where passes over `fan` rows of each are to be replayed."""
    wanted = options.cuda_graphs and model.knobs.attention != "flex"  # which compiles itself as it goes
    if recordings is None or not wanted or not 0 < len(source) * fan <= MOST_ROWS:
        return None, model.encode(source, source != PAD)
    recorded = recordings.read(source)
    return recorded, recorded.memory


def _ar(
    model: Transformer, source: Tensor, options: Decoding, side: ARSide, recordings: Recordings | None
) -> list[list[Output]]:
    """Beam search (greedy where `options.beam` is 1): the `options.nbest` best outputs of each sentence.

    Score: sum of log-probabilities / length ** length_penalty. An AR side of `masks` writes as many tokens as the
    length head finds likeliest.
    """
    recorded, memory = _read(model, source, options, options.beam, None if side == "masks" else recordings)
    most = most_tokens(source, model, options)
    step: NextToken | RecordedNext
    if recorded:
        step = recorded.next_token(side, options.beam, most)
    elif side == "masks":
        lengths = _likeliest_length(model, memory)
        most, step = lengths + 1, NextOfLength(model, memory, lengths)
    else:
        step = NextToken(model, memory, side, most)
    if options.beam == 1:
        outputs = [[output] for output in greedy(step.best, most, options.length_penalty)]
    else:
        outputs = beam_search(step, most, options.beam, options.length_penalty, options.nbest)
    if side == "masks":  # the MASKs, which stand for the length, took a pass of their own
        return [[replace(output, passes=output.passes + 1) for output in each] for each in outputs]
    return outputs


def _spec(
    model: Transformer, source: Tensor, options: Decoding, side: ARSide, recordings: Recordings | None
) -> list[list[Output]]:
    """Speculative decoding: what greedy search gives, drafted by the NAR side and verified by the AR side.

    The text equals greedy's wherever the best token leads by more than the rounding between one pass over several
    tokens and one pass for each (see docs/limits.md).
    """
    recorded, memory = _read(model, source, options, 1, recordings)
    most, lengths = most_tokens(source, model, options), _likeliest_length(model, memory)
    window = min(options.verify_window, int(most.max()))
    draft = Draft(model, memory, lengths, most, options)
    if recorded:
        draft = RecordedDraft(recorded, lengths, most, options)
    joint = draft if options.redraft == "joint" else None
    if recorded:
        verify: Verify = recorded.verify(side, most, window, joint)
    else:
        verify = Verify(model, memory, side, most, window, joint)
    return [[output] for output in speculative(draft, verify, most, window, options.redraft)]


def _blocks(model: Transformer, source: Tensor, options: Decoding, block: int | None) -> list[list[Output]]:
    """One output of each sentence, `block` tokens a pass (None: all in one) up to the first EOS.

    Score: mean log-probability of the tokens.
    """
    most = most_tokens(source, model, options)
    step = NextBlock(model, model.encode(source, source != PAD), most, block or int(most.max()))
    tokens, logps, passes = write_blocks(step, most, block)
    if options.remove_repeats:
        tokens, logps = without_repeats(tokens, logps)
    return _ranked(tokens, logps, mean_logp(tokens, logps)[:, None], 1, passes, (tokens != PAD).sum(1), [])


def _nar(
    model: Transformer, source: Tensor, options: Decoding, side: ARSide | None, trace: bool,
    recordings: Recordings | None,
) -> list[list[Output]]:  # fmt: skip
    """Mask-predict over a length beam: the `options.nbest` best of `options.length_beam` candidates of each sentence.

    Score: mean log-probability of a candidate's tokens; with `options.rerank` "ar" that in one left-to-right pass of
    the same model (needs an AR side), EOS included.
    """
    fan, states = options.length_beam, list[tuple[Tensor, ...]]()
    recorded, memory = _read(model, source, options, fan, None if trace else recordings)
    sizes = predicted_lengths(model.length_logits(memory), fan, model.knobs.max_length - 2)
    blank = masks(sizes.flatten())
    if recorded:
        tokens, logps, passes = recorded.mask_predict(blank, options.iters, options.update, fan)
    else:
        keep = (lambda _, *state: states.append(state)) if trace else None
        step = AllTokens(model, memory)
        tokens, logps, passes = mask_predict(step, blank, options.iters, update=options.update, fan=fan, trace=keep)
    # (B * fan, T), (B * fan, T), (B,)
    if options.remove_repeats:
        tokens, logps = without_repeats(tokens, logps)
    if options.rerank == "none":
        scores = mean_logp(tokens, logps)
    else:
        assert side is not None, "without an AR side there is nothing to rerank with"
        passes = passes + 1
        if recorded and side != "masks":  # whose slots are as many as there are tokens
            scores = recorded.ar_scores(tokens, side)
        else:
            scores = ar_scores(model, memory, tokens, side)
    return _ranked(tokens, logps, scores.view(sizes.shape), options.nbest, passes, sizes.flatten(), states)


def _likeliest_length(model: Transformer, memory: Memory) -> Tensor:
    """(B,) target tokens without EOS."""
    return predicted_lengths(model.length_logits(memory), 1, model.knobs.max_length - 2)[:, 0]


def most_tokens(source: Tensor, model: Transformer, options: Decoding) -> Tensor:
    """(B,) the most tokens of an AR output, EOS included: max_ratio * source + max_extra, and what the model holds."""
    return length_limit((source != PAD).sum(1) - 1, model.knobs.max_length, options)  # EOS


def length_limit(lengths: Tensor, max_length: int, options: Decoding) -> Tensor:
    """`most_tokens` from the lengths of sources without EOS, (B,) int64, and the positions of the model."""
    limit = (lengths * options.max_ratio).long() + options.max_extra + 1
    return limit.clamp(1, max_length - 1)


def _ranked(
    tokens: Tensor, logps: Tensor, scores: Tensor, nbest: int, passes: Tensor, sizes: Tensor,
    states: list[tuple[Tensor, ...]],
) -> list[list[Output]]:  # fmt: skip
    """The best candidates of each sentence as outputs. tokens, logps (B * F, T), scores (B, F), passes (B,).

    sizes (B * F,): the lengths before repeats were removed. states: of each traced pass, as `mask_predict` tells them.
    """
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :nbest].tolist()
    fan = scores.shape[1]
    lengths, counts = (tokens != PAD).sum(1).tolist(), passes.tolist()
    score, token, logp, size = scores.flatten().tolist(), tokens.tolist(), logps.tolist(), sizes.tolist()
    steps = [tuple(part.tolist() for part in state) for state in states]

    def output(sentence: int, row: int) -> Output:
        trace = tuple(Iteration(*(part[row][: size[row]] for part in state)) for state in steps)
        return Output(token[row][: lengths[row]], logp[row][: lengths[row]], score[row], counts[sentence], trace)

    return [[output(s, s * fan + candidate) for candidate in best] for s, best in enumerate(order)]
