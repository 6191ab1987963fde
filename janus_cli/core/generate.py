"""A model and a batch of sources -> outputs: each mode is a search over the model's steps."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from janus_cli.core.batch import PAD
from janus_cli.core.graphs import MOST_ROWS, RecordedDraft, RecordedNext, RecordedSource, Recordings
from janus_cli.core.knobs import ARSide, Decoding, Mode
from janus_cli.core.model import Memory, Transformer
from janus_cli.core.search import Iteration, Output, different
from janus_cli.core.search.beam import Ending, Step, beam_search
from janus_cli.core.search.blocks import write_blocks
from janus_cli.core.search.greedy import greedy
from janus_cli.core.search.mask_predict import masks, mean_logp, over_lengths, predicted_lengths
from janus_cli.core.search.repeats import Repeats
from janus_cli.core.search.rules import Obeying
from janus_cli.core.search.sample import Gumbel, row_keys, sample
from janus_cli.core.search.speculative import Copied, speculative
from janus_cli.core.steps import Draft, NextBlock, NextOfLength, NextToken, Verify, ar_scores, fill_masks
from janus_cli.core.writing import Unwritten, most_tokens, never_written


def generate(
    model: Transformer, source: Tensor, mode: Mode, options: Decoding, side: ARSide | None, trace: bool = False
) -> list[list[Output]]:
    """The outputs of a `Generator` for a model whose weights may change before the next call."""
    return Generator(model, changing=True)(source, mode, options, side, trace)


class Generator:
    """Generates with one model. Its weights must not change: a CPU reads packed copies, a GPU replays recorded passes.

    changing: neither pack nor record, because the weights may change between calls (validation during training).
    """

    def __init__(self, model: Transformer, *, changing: bool = False) -> None:
        self.model = model
        self.recordings: Recordings | None = None
        if not changing:
            model.eval()
            model.pack()
            if model.output_weight.device.type == "cuda":
                self.recordings = Recordings(model)

    def forget(self) -> None:
        """Frees all recordings."""
        if self.recordings is not None:
            self.recordings.forget()

    def __call__(
        self, source: Tensor, mode: Mode, options: Decoding, side: ARSide | None, trace: bool = False
    ) -> list[list[Output]]:
        """The outputs of each sentence, best first, without dropout; see the mode's method below.

        source: (B, S) int64, tokens, EOS, PAD. side: the model's AR side, None if it has none.
        trace: keep what every pass of mask-predict wrote.
        """
        training = self.model.training
        if training:  # asked first: going through all modules takes longer than a decoder pass
            self.model.eval()
        try:
            with torch.inference_mode():
                if mode == "semi" or (mode == "nar" and self.model.length_table is None):
                    return self._blocks(source, options, options.block if mode == "semi" else None)
                if mode == "nar":
                    return self._nar(source, options, side, trace)
                assert side is not None, f"{mode} needs an AR side"
                return (self._ar if mode == "ar" else self._spec)(source, options, side)
        finally:
            if training:
                self.model.train()

    def _read(self, source: Tensor, options: Decoding, fan: int) -> tuple[RecordedSource | None, Memory]:
        """Encodes the source; returns recording (None: passes over `fan` rows each are not replayed) and memory."""
        wanted = options.cuda_graphs and self.model.knobs.attention != "flex"  # which compiles itself as it goes
        if self.recordings is None or not wanted or not 0 < len(source) * fan <= MOST_ROWS:
            return None, self.model.encode(source, source != PAD)
        recorded = self.recordings.read(source)
        return recorded, recorded.memory

    def _limit(self, source: Tensor, options: Decoding) -> Tensor:
        """(B,) the most tokens of an output that ends in EOS, EOS included."""
        return length_limit((source != PAD).sum(1) - 1, self.model.knobs.max_length, options)  # EOS

    def _lengths(self, memory: Memory, count: int) -> tuple[Tensor, Tensor]:
        """(B, count) the likeliest lengths, EOS not counted, and their log-probabilities in nats."""
        return predicted_lengths(self.model.length_logits(memory), count, self.model.knobs.max_length - 2)

    def _ar(self, source: Tensor, options: Decoding, side: ARSide) -> list[list[Output]]:
        """Beam search, greedy if `options.beam` is 1, or samples: the `options.nbest` best outputs of each sentence.

        Score: sum of log-probabilities / length ** length_penalty. An AR side of `masks` writes as many tokens as the
        length head finds likeliest.
        """
        model, never, most = self.model, never_written(options), self._limit(source, options)
        fan = options.nbest if options.temperature else options.beam
        least = 0 if side == "masks" else options.min_length
        rules = {"ngram": options.no_repeat_ngram, "least": least, "first": options.first_token}
        best = fan == 1 and not options.temperature and not any(rules.values())
        step: NextToken | RecordedNext
        if side == "masks":
            memory = model.encode(source, source != PAD)
            lengths = self._lengths(memory, 1)[0][:, 0]
            most, step = lengths + 1, NextOfLength(model, memory, lengths, never)
        else:
            recorded, memory = self._read(source, options, fan)
            if recorded:
                step = recorded.next_token(side, fan, most, never, best=best)
            else:
                step = NextToken(model, memory, side, most, never)
        if best:
            found = greedy(step.best, most, options.length_penalty, free_end=options.free_end)
            outputs = [[output] for output in found]
        else:
            obeying: Step = Obeying(step, **rules) if any(rules.values()) else step
            outputs = _search(obeying, source, most, options)
        if side == "masks":  # the MASKs, which stand for the length, took a pass of their own; no limit was in force
            return [[replace(output, passes=output.passes + 1, limited=False) for output in each] for each in outputs]
        return outputs

    def _spec(self, source: Tensor, options: Decoding, side: ARSide) -> list[list[Output]]:
        """Speculative decoding: what greedy search gives, drafted by the NAR side, verified by the AR side.

        The text equals greedy's wherever the best token leads by more than the rounding between one pass over several
        tokens and one pass for each (see docs/limits.md).
        """
        model = self.model
        recorded, memory = self._read(source, options, 1)
        most = self._limit(source, options)
        window, never = min(options.verify_window, int(most.max())), never_written(options)
        draft: Draft | Copied = Copied(source, min(window, options.draft_length))
        if options.redraft != "source":
            lengths = self._lengths(memory, 1)[0][:, 0]
            kind = partial(RecordedDraft, recorded) if recorded else partial(Draft, model, memory)
            draft = kind(lengths, most, options)
        if recorded:
            verify: Verify = recorded.verify(side, most, window, never)
        else:
            verify = Verify(model, memory, side, most, window, never)
        found = speculative(
            draft, verify, most, window, options.redraft,
            first=options.first_token, free_end=options.free_end, length_penalty=options.length_penalty,
        )  # fmt: skip
        return [[output] for output in found]

    def _blocks(self, source: Tensor, options: Decoding, block: int | None) -> list[list[Output]]:
        """One output of each sentence, `block` tokens a pass (None: all in one) up to the first EOS.

        Score: mean log-probability of the tokens.
        """
        most = self._limit(source, options)
        memory = self.model.encode(source, source != PAD)
        step = NextBlock(self.model, memory, most, block or int(most.max()), never_written(options))
        tokens, logps, passes, limited = write_blocks(step, most, block)
        if dropped := _dropped(options):
            tokens, logps = dropped.without(tokens, logps)
        outputs = _ranked(tokens, logps, mean_logp(tokens, logps)[:, None], 1, passes, (tokens != PAD).sum(1), [])
        return [[replace(o, limited=True)] if cut else [o] for (o,), cut in zip(outputs, limited.tolist(), strict=True)]

    def _nar(self, source: Tensor, options: Decoding, side: ARSide | None, trace: bool) -> list[list[Output]]:
        """Mask-predict over a length beam: the `options.nbest` best of `options.length_beam` candidates of a sentence.

        The first pass is over all of them, the others over the `options.kept` in which it has least doubt.
        Score: that of `over_lengths`, if the first pass is to choose among several; with `options.rerank` "nar", or one
        length only, the mean log-probability of the tokens; "ar": that of tokens and EOS in one left-to-right pass of
        the same model, which needs an AR side.
        """
        model, fan, never, states = self.model, options.length_beam, never_written(options), list[tuple[Tensor, ...]]()
        recorded, memory = (None, model.encode(source, source != PAD)) if trace else self._read(source, options, fan)
        lengths, prior = (each.flatten() for each in self._lengths(memory, fan))
        size = options.rewrite_repeats
        how: dict[str, Any] = {"fan": fan, "keep": options.kept, "update": options.update, "sure": options.sure}
        how["repeats"] = Repeats(doubled=size > 0, ngram=size if size > 1 else 0)
        writing: dict[str, Any] = {"never": never, "differ": options.avoid_repeats}
        if recorded:
            found = recorded.over_lengths(masks(lengths), prior, options.iters, **writing, **how)
        else:
            keep = (lambda *state: states.append(state)) if trace else None
            step = partial(fill_masks, model, memory, **writing)
            found = over_lengths(
                partial(step, doubt=True), step, masks(lengths), prior, options.iters, trace=keep, **how
            )
        rows, scores, tokens, logps, passes = found
        if dropped := _dropped(options):
            tokens, logps = dropped.without(tokens, logps)
        if options.rerank == "nar" or not options.kept:
            scores = mean_logp(tokens, logps)
        if options.rerank == "ar":
            assert side is not None, "without an AR side there is nothing to rerank with"
            one_pass: Callable[[Tensor, ARSide, Unwritten], Tensor] = partial(ar_scores, model, memory)
            if recorded and side != "masks":  # whose slots are as many as there are tokens
                one_pass = recorded.ar_scores
            passes, scores = passes + 1, one_pass(tokens, side, never)
        scores, count = scores.view(len(source), -1), options.nbest
        ranked = _ranked(tokens, logps, scores, count if count == 1 else scores.shape[1], passes, lengths[rows], states)
        outputs = [different(each, count) for each in ranked]
        return _with_lengths(outputs, lengths, prior, rows, scores) if trace else outputs


def _search(step: Step, source: Tensor, most: Tensor, options: Decoding) -> list[list[Output]]:
    """Samples, or a beam, as the options say."""
    penalty, nbest = options.length_penalty, options.nbest
    if options.temperature:
        draw = Gumbel(row_keys(source, options.seed, nbest), options.temperature, options.top_k, options.top_p)
        return sample(step, draw, most, nbest, penalty, free_end=options.free_end)
    groups = (options.groups or options.beam) if options.diversity else 1
    ending = Ending("full" if options.beam == 1 else options.early_stopping, options.free_end)  # greedy ends at EOS
    return beam_search(
        step, most, options.beam, penalty, nbest, groups=groups, diversity=options.diversity, ending=ending
    )


def length_limit(lengths: Tensor, max_length: int, options: Decoding) -> Tensor:
    """`most_tokens` as a tensor. lengths: (B,) int64."""
    limits: Tensor = most_tokens(lengths, max_length, options)
    return limits.long()


def _with_lengths(
    outputs: list[list[Output]], lengths: Tensor, prior: Tensor, rows: Tensor, scores: Tensor
) -> list[list[Output]]:
    """With each best output what was tried: lengths, their log-probabilities (B * F,), the scores of some `rows`."""
    scored = dict(zip(rows.tolist(), scores.flatten().tolist(), strict=True))
    pairs = zip(lengths.tolist(), prior.tolist(), strict=True)
    tried = [(*pair, scored.get(row)) for row, pair in enumerate(pairs)]
    fan = len(tried) // len(outputs)
    return [
        [replace(best, tried=tuple(tried[s * fan : (s + 1) * fan])), *others]
        for s, (best, *others) in enumerate(outputs)
    ]


def _dropped(options: Decoding) -> Repeats:
    """The repeats that an output of several tokens a pass must not have."""
    return Repeats(options.remove_repeats, options.no_repeat_ngram)


def _ranked(
    tokens: Tensor, logps: Tensor, scores: Tensor, nbest: int, passes: Tensor, sizes: Tensor,
    states: list[tuple[Tensor, ...]],
) -> list[list[Output]]:  # fmt: skip
    """The `nbest` candidates of each sentence as outputs. tokens, logps (B * F, T), scores (B, F), passes (B,).

    sizes (B * F,): the lengths before repeats were removed. states: what `mask_predict` gave `trace` in each pass.
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
