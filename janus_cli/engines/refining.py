"""Mask-predict over several lengths as one ONNX graph, from source ids on: that of core/search/mask_predict.py."""

from __future__ import annotations

from math import log

import numpy as np

from janus_cli.core.knobs import Decoding
from janus_cli.core.symbols import BOS, EOS, MASK, PAD
from janus_cli.core.writing import Unwritten
from janus_cli.engines.graph import State, Value
from janus_cli.engines.left_to_right import Results, Side, scores
from janus_cli.engines.network import IMPOSSIBLE, Network, Source
from janus_cli.engines.repeats import less_certain, without


class MaskPredict:
    """`over_lengths` and `mask_predict`. Rows: candidates of a sentence side by side; R of them in all, T tokens."""

    def __init__(self, network: Network, options: Decoding, never: Unwritten) -> None:
        self.network, self.graph, self.options, self.never = network, network.graph, options, never

    def search(self, source: Value, most: Value, side: Side | None, *, padded: bool) -> Results:
        """most: () int64, passes at most. side: of the AR side that reranks, if any."""
        graph, batch, fan = self.graph, source.size(0), self.options.length_beam
        memory = self.network.encode(source, padded=padded)
        allowed = self.network.length_logits(memory).cut(1, self.network.knobs.max_length - 1, 1)
        prior, places = graph.op("LogSoftmax", allowed, axis=1).top(fan)
        rows = _Rows(self, memory, (places + 1).reshape(-1, 1), alone=fan == 1 and not padded)
        tokens, logps, every = rows.first()
        total = graph.floats([0.0]).expand(batch * fan)
        if keep := self.options.kept:
            lengths = rows.lengths.squeeze(1)
            total = (prior.reshape(-1) - rows.doubt(every)) / (lengths + 1).to(np.float32)
            total, order = total.reshape(batch, fan).top(keep)
            chosen = (order + (graph.range(batch) * fan).unsqueeze(1)).reshape(-1)
            rows = _Rows(self, memory, rows.lengths.gather(chosen), alone=keep == 1 and not padded)
            tokens, logps = (each.gather(chosen).cut(0, rows.longest, 1) for each in (tokens, logps))
            total, fan = total.reshape(-1), keep
        state = {"tokens": tokens, "logps": logps, "read": rows.masks, "passes": graph.ints([1]).expand(batch)}
        state, _ = graph.loop(most - 1, state, lambda turn, state: self._turn(rows, turn + 1, most, fan, state))
        tokens, logps, lengths, passes = state["tokens"], state["logps"], rows.lengths, state["passes"]
        if self.options.remove_repeats:
            tokens, logps, lengths = without(tokens, logps)
        if side:
            total = scores(self.network, memory, self.framed(tokens, lengths), side, self.never)
            passes = passes + 1
        elif not keep or self.options.rerank == "nar":
            total = logps.over("Sum", 1) / lengths.squeeze(1).to(np.float32)
        return {**self._best(tokens, logps, lengths, total.reshape(batch, fan)), "passes": passes}

    def _best(self, tokens: Value, logps: Value, lengths: Value, total: Value) -> Results:
        """The best row of each sentence; all of them, best first, if several are wanted, as they may write the same.

        tokens, logps (R, T), lengths (R, 1), total (B, R / B).
        """
        options, graph, batch = self.options, self.graph, total.size(0)
        count = 1 if options.nbest == 1 else options.kept or options.length_beam
        best, order = total.top(count)
        chosen = (order + (graph.range(batch) * total.size(1)).unsqueeze(1)).reshape(-1)
        tokens, logps = (each.gather(chosen).reshape(batch, count, -1) for each in (tokens, logps))
        lengths = lengths.gather(chosen).reshape(batch, count)
        return {"tokens": tokens, "logps": logps, "lengths": lengths, "scores": best}

    def _turn(self, rows: _Rows, done: Value, most: Value, fan: int, state: State) -> tuple[Value, State, State]:
        """The pass after `done` ones."""
        graph, tokens, logps = self.graph, state["tokens"], state["logps"]
        places, hidden = self._hidden(rows, tokens, logps, done, most)
        reading = tokens.put(places, graph.where(hidden, MASK, tokens.pick(places)))
        every = self.options.update == "all"
        asks = (rows.real if every else hidden).any(1)
        active = (asks & (~reading.equals(state["read"])).any(1)).reshape(-1, fan).any(1)
        tokens, logps = graph.branch(
            active.any(0),
            lambda: self._written(rows, reading, tokens, logps, None if every else (places, hidden)),
            lambda: [tokens, logps],  # nobody reads anything new
        )
        passes = state["passes"] + active.to(np.int64)
        more = graph.value(True, bool) if every else asks.any(0)  # nothing hidden once, nothing later
        return more, {"tokens": tokens, "logps": logps, "read": reading, "passes": passes}, {}

    def _written(
        self, rows: _Rows, reading: Value, tokens: Value, logps: Value, hidden: tuple[Value, Value] | None
    ) -> list[Value]:
        """Tokens and log-probabilities after a pass over `reading`. hidden: see `_hidden`; None: all are written."""
        graph, states = self.graph, rows.states(reading)  # (R, T, D)
        if hidden is None:
            best, sure = self.choices(states)[:2]
            return [graph.where(rows.real, best, PAD), graph.where(rows.real, sure, 0.0)]
        places, asked = hidden
        width = self.network.knobs.width
        states = states.pick(places.unsqueeze(2).expand(places.size(0), places.size(1), width))
        best, sure = self.choices(states)[:2]
        return [
            tokens.put(places, graph.where(asked, best, tokens.pick(places))),
            logps.put(places, graph.where(asked, sure, logps.pick(places))),
        ]

    def _hidden(self, rows: _Rows, tokens: Value, logps: Value, done: Value, most: Value) -> tuple[Value, Value]:
        """Places (R, k) of what may be hidden after pass `done`, and which of them (R, k) bool are.

        These are the least certain tokens, and repeats.
        """
        graph = self.graph
        count = rows.lengths * (most - done) // most  # (R, 1)
        largest = graph.op("Max", count.over("Max", 0), graph.ints([1]))
        worst, places = graph.where(rows.real, logps, -IMPOSSIBLE).top(largest, largest=False)
        hidden = graph.range(largest) < count
        if self.options.sure < 1:
            hidden = hidden & (worst < log(self.options.sure))
        if not self.options.rewrite_repeats:
            return places, hidden
        again = (less_certain(tokens, logps) & rows.real).to(np.int64)
        every = graph.op("Max", (rows.masks * 0).put(places, hidden.to(np.int64)), again)  # (R, T)
        sizes = every.over("Sum", 1, keep=True)
        largest = graph.op("Max", sizes.over("Max", 0), graph.ints([1]))
        return every.top(largest)[1], graph.range(largest) < sizes

    def framed(self, tokens: Value, lengths: Value) -> Value:
        """tokens (R, T), lengths (R, 1) -> (R, T + 2): BOS, tokens, EOS, PAD."""
        graph, first = self.graph, self.graph.ints([[0]]).expand(tokens.size(0), 1)
        body = graph.concat(tokens, first + PAD, axis=1)
        ends = graph.range(body.size(1)).equals(lengths)
        return graph.concat(first + BOS, graph.where(ends, EOS, body), axis=1)

    def choices(self, states: Value) -> tuple[Value, Value, Value]:
        """states (R, k, D) -> the best token and its log-probability, (R, k) each; all log-probabilities (R * k, V)."""
        graph, network, never = self.graph, self.network, self.never.or_eos
        shape = states.size(0), states.size(1)
        logits = network.logits(states.reshape(-1, network.knobs.width), never)
        logps = graph.op("LogSoftmax", logits, axis=1)
        best = network.best(network.allowed(logits, never))
        sure = logps.pick(best)
        return best.reshape(*shape), sure.reshape(*shape), logps


class _Rows:
    """Candidates of certain lengths (R, 1). alone: there is one only, so nothing is padding."""

    def __init__(self, search: MaskPredict, memory: Source, lengths: Value, *, alone: bool) -> None:
        self.search, self.graph, self.memory, self.lengths = search, search.graph, memory, lengths
        network, graph = search.network, search.graph
        self.longest = lengths.over("Max", 0)  # (1,)
        self.real = graph.range(self.longest) < lengths  # (R, T)
        self.masks = graph.where(self.real, MASK, PAD)
        self.bias = None  # (R, 1, T + 2, T + 2)
        size = self.longest + 2
        if not alone:
            seen = graph.where(graph.range(size) < lengths + 2, 0.0, IMPOSSIBLE).unsqueeze(1, 2)
            self.bias = seen.expand(seen.size(0), 1, size, size)
        self.left = network.to_the_left(graph.range(size)) if network.knobs.causal_attention else None
        if self.left is not None and self.bias is not None:
            self.left = self.left + self.bias

    def states(self, tokens: Value) -> Value:
        """One pass over tokens (R, T) -> their states (R, T, D)."""
        frame, network = self.search.framed(tokens, self.lengths), self.search.network
        positions = self.graph.range(frame.size(1))
        states, _ = network.decode(frame, network.at(positions), self.memory, (self.bias, self.left))
        return states.reshape(frame.size(0), -1, network.knobs.width).cut(1, frame.size(1) - 1, 1)

    def first(self) -> tuple[Value, Value, Value]:
        """The first pass: tokens and their log-probabilities (R, T), all log-probabilities (R * T, V)."""
        graph = self.graph
        best, sure, logps = self.search.choices(self.states(self.masks))
        return graph.where(self.real, best, PAD), graph.where(self.real, sure, 0.0), logps

    def doubt(self, logps: Value) -> Value:
        """The sum of the entropies of a row's tokens, of all log-probabilities (R * T, V) -> (R,)."""
        entropy = (self.graph.op("Exp", logps) * logps).over("Sum", 1) * -1.0
        return self.graph.where(self.real, entropy.reshape(-1, self.longest), 0.0).over("Sum", 1)
