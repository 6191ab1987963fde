"""Greedy and beam search as ONNX graphs, from source ids on: those of `core/search/`, with the same results."""

from __future__ import annotations

from math import log
from typing import Literal

import numpy as np

from janus_cli.core.knobs import Decoding
from janus_cli.core.symbols import BOS, EOS, MASK, PAD
from janus_cli.core.writing import Unwritten
from janus_cli.engines.graph import State, Value
from janus_cli.engines.int8 import Blocks
from janus_cli.engines.network import IMPOSSIBLE, Network, Source
from janus_cli.engines.rules import Rules
from janus_cli.engines.screen import Screen

Side = Literal["content", "query"]
# What a search gives of each sentence's N hypotheses, best first: tokens (B, N, T), PAD behind the last, without EOS;
# logps (B, N, T), left to right with that of EOS, and scores (B, N), both if known; lengths (tokens, B, N); decoder
# passes (B,).
Results = dict[str, Value]


class NextToken:
    """The step of both searches: `NextToken` of core/steps.py. The cache is part of a loop's state."""

    def __init__(self, network: Network, memory: Source, side: Side, never: Unwritten) -> None:
        self.network, self.memory, self.side, self.never = network.for_steps, memory, side, never
        each = network.knobs.decoder_layers * (1 + network.knobs.causal_attention)
        self.names = [f"{what}{index}" for index in range(each) for what in ("keys", "values")]

    def empty(self, rows: Value) -> State:
        """A cache without slots: (R, H, 0, D/H) for keys and values of each self-attention."""
        knobs = self.network.knobs
        shape = knobs.heads, 0, knobs.width // knobs.heads
        none = self.network.graph.floats(np.zeros((1, *shape), np.float32)).expand(rows, *shape)
        return dict.fromkeys(self.names, none)

    def __call__(self, last: Value, place: Value, cache: State) -> tuple[Value, State]:
        """As `states`, but logits (R, V)."""
        states, cache = self.states(last, place, cache)
        return self.network.logits(states, self.never), cache

    def states(self, last: Value, place: Value, cache: State) -> tuple[Value, State]:
        """last: (R, 1), the newest token of each row; place: (), its position. -> states (R, D), and the new cache."""
        graph, width = self.network.graph, self.network.knobs.width
        pasts = [cache[name] for name in self.names]
        positions, keys = place.reshape(1), None
        if self.side == "query":
            last = graph.concat(last, graph.ints([[MASK]]).expand(last.size(0), 1), axis=1)
            positions, keys = graph.concat(positions, positions + 1, axis=0), 1
        states, kept = self.network.decode(
            last, self.network.at(positions), self.memory, (None, None), pasts, keys=keys
        )
        if self.side == "query":
            states = states.reshape(-1, 2, width).cut(1, 2, 1).reshape(-1, width)
        return states, dict(zip(self.names, kept, strict=True))


def length_limits(source: Value, longest: int, options: Decoding) -> Value:
    """`length_limit` of core/generate.py: (B,) tokens at most, EOS included.

    longest: positions of the model.
    """
    graph, (ratio, extra) = source.graph, options.limit
    sizes = (~source.equals(PAD)).to(np.int64).over("Sum", 1) - 1  # EOS
    limits = graph.op("Max", (sizes.to(np.float32) * ratio).to(np.int64), graph.ints([options.min_length]))
    return graph.op("Min", limits + (extra + 1), graph.ints([longest - 1]))


def greedy(
    network: Network, options: Decoding, source: Value, side: Side, never: Unwritten, *, padded: bool
) -> Results:
    """`greedy` of core/search. Gives what every search does (`Results`), and limited (B, 1)."""
    graph, batch, rules = network.graph, source.size(0), Rules(options)
    step = NextToken(network, network.encode(source, padded=padded), side, never)
    limits = length_limits(source, network.knobs.max_length, options).unsqueeze(1)

    def turn(place: Value, state: State) -> tuple[Value, State, State]:
        logits, cache = step(state["last"], place, state)
        at_end, words = limits.equals(place + 1), rules.read(state, state["last"])
        allowed = rules.obeying(network.allowed(logits, never), words, place)
        best = graph.where(at_end, EOS, network.best(allowed))
        sure, going = graph.op("LogSoftmax", logits, axis=1).pick(best), state["going"]
        sure = graph.where(at_end, 0.0, sure) if options.free_end else sure
        sure = graph.where(place.equals(0), 0.0, sure) if rules.first else sure
        written = {"tokens": graph.where(going, best, PAD), "logps": graph.where(going, sure, 0.0)}
        going = going & ~best.equals(EOS)
        return going.any(0).squeeze(0), {"last": best, "going": going, **cache, **words}, written

    state = {
        "last": graph.ints([[BOS]]).expand(batch, 1), "going": graph.value([[True]], bool).expand(batch, 1),
        **step.empty(batch), **rules.start(batch),
    }  # fmt: skip
    _, written = graph.loop(limits.over("Max", 0).squeeze(0), state, turn)
    tokens, logps = written["tokens"].transpose(1, 2, 0), written["logps"].transpose(1, 2, 0)  # (B, 1, T)
    sizes = (~tokens.equals(PAD)).to(np.int64).over("Sum", 2)  # EOS included
    limited = ~(sizes < limits)
    if not options.free_end:
        limited = limited & (logps.pick((sizes - 1).unsqueeze(2), 2).squeeze(2) <= log(0.5))
    return {
        "tokens": graph.where(tokens.equals(EOS), PAD, tokens), "logps": logps, "lengths": sizes - 1,
        "scores": logps.over("Sum", 2).to(np.float64) / lengthened(sizes, options), "passes": sizes.squeeze(1),
        "limited": limited,
    }  # fmt: skip


def screened_greedy(network: Network, options: Decoding, source: Value, side: Side, never: Unwritten) -> Results:
    """`greedy` of one sentence by `Screen`, so without log-probabilities and scores; limited (1, 1)."""
    graph, rules = network.graph, Rules(options)
    step, screen = NextToken(network, network.encode(source, padded=False), side, never), Screen(network, never, Blocks)
    limit = length_limits(source, network.knobs.max_length, options)  # (1,)

    def turn(place: Value, state: State) -> tuple[Value, State, State]:
        states, cache = step.states(state["last"], place, state)
        words = rules.read(state, state["last"])
        best = screen(states, lambda logits: rules.obeying(network.allowed(logits, never), words, place))
        best = graph.where(limit.equals(place + 1), EOS, best)
        going = ~best.equals(EOS).any(0).squeeze(0)
        return going, {"last": best, "states": states, **cache, **words}, {"tokens": best.squeeze(0)}

    one = graph.ints([1])
    begin = {"last": graph.ints([[BOS]]), "states": graph.floats(np.zeros((1, network.knobs.width)))}
    last, written = graph.loop(limit.squeeze(0), {**begin, **step.empty(one), **rules.start(one)}, turn)
    tokens = written["tokens"].reshape(1, 1, -1)
    size = tokens.size(2).unsqueeze(0)  # EOS included
    limited = ~(size < limit)
    if not options.free_end:
        limited = limited & (of_end(network, never, last["states"], limited) <= log(0.5))
    return {
        "tokens": graph.where(tokens.equals(EOS), PAD, tokens), "lengths": size - 1, "passes": size.squeeze(1),
        "limited": limited,
    }  # fmt: skip


def of_end(network: Network, never: Unwritten, states: Value, asked: Value) -> Value:
    """The log-probability of EOS after states (1, D), (1, 1); 0.0 if it is not asked for (1, 1)."""
    graph = network.graph

    def by_all_logits() -> list[Value]:
        return [graph.op("LogSoftmax", network.logits(states, never), axis=1).cut(EOS, EOS + 1, 1)]

    return graph.branch(asked.reshape(-1).squeeze(0), by_all_logits, lambda: [graph.floats([[0.0]])])[0]


def lengthened(length: Value, options: Decoding) -> Value:
    """What a sum of log-probabilities is divided by."""
    graph = length.graph
    return graph.op("Pow", length.to(np.float64), graph.value(options.length_penalty, np.float64))


class Beam:
    """`beam_search` without groups. F: hypotheses of a beam, N: those that are wanted of a sentence."""

    def __init__(self, network: Network, options: Decoding) -> None:
        self.network, self.graph, self.options = network, network.graph, options
        self.rules = Rules(options)

    def search(self, source: Value, side: Side, never: Unwritten, *, padded: bool) -> Results:
        """Gives what every search does (`Results`), and limited (B, N); score `IMPOSSIBLE`: none."""
        graph, batch, beam = self.graph, source.size(0), self.options.beam
        step = NextToken(self.network, self.network.encode(source, padded=padded), side, never)
        limits = length_limits(source, self.network.knobs.max_length, self.options).unsqueeze(1)  # (B, 1)
        first = (graph.range(batch) * beam).unsqueeze(1)  # (B, 1)

        def turn(place: Value, state: State) -> tuple[Value, State, State]:
            before = {name: state[name].gather(state["rows"]) for name in (*step.names, *self.rules.names)}
            words = self.rules.read(before, state["last"])
            logits, cache = step(state["last"], place, before)
            logps = self.network.allowed(graph.op("LogSoftmax", logits, axis=1), never)
            logps = self.rules.obeying(logps, words, place)
            total, slot, token = self._candidates(logps, state["sums"], limits.equals(place + 1))
            scores, best = self._ended(total, token, state, place + 1)
            live, going = self._live(total, slot, token, best, state["going"], place + 1, limits)
            found = {**live, "ended": scores, "ended_slots": slot.cut(0, beam, 1), "ended_sums": total.cut(0, beam, 1)}
            state = {
                "last": live["tokens"].reshape(-1, 1), "rows": (live["slots"] + first).reshape(-1), "going": going,
                "sums": live["sums"], "best": best, "passes": state["passes"] + state["going"].to(np.int64),
                **cache, **words,
            }  # fmt: skip
            return going.any(0).squeeze(0), state, found

        begin = np.array([[0.0] + [IMPOSSIBLE] * (beam - 1)])  # the first pass has one hypothesis
        state = {
            "last": graph.ints([[BOS]]).expand(batch * beam, 1), "rows": graph.range(batch * beam),
            "going": graph.value([[True]], bool).expand(batch, 1), "passes": graph.ints([[0]]).expand(batch, 1),
            "sums": graph.value(begin, np.float64).expand(batch, beam),
            "best": graph.value([[IMPOSSIBLE]], np.float64).expand(batch, beam), **step.empty(batch * beam),
            **self.rules.start(batch * beam),
        }  # fmt: skip
        last, found = graph.loop(limits.over("Max", 0).squeeze(0), state, turn)
        passes = last["passes"]
        limited = (~(passes < limits)).expand(batch, self.options.nbest)
        return {**self._best(found), "passes": passes.squeeze(1), "limited": limited}

    def _best(self, found: State) -> Results:
        """The best hypotheses of each sentence.

        found: of each pass the live hypotheses, tokens, slots (of the pass before) and sums (T, B, F), and those that
        end there, ended (scores; `IMPOSSIBLE` for none), ended_slots and ended_sums (T, B, F).
        """
        graph, count, beam = self.graph, self.options.nbest, self.options.beam
        ended, slots, sums = (
            found[name].transpose(1, 0, 2).reshape(0, -1) for name in ("ended", "ended_slots", "ended_sums")
        )  # (B, T F)
        scores, place = ended.top(count)
        lengths, longest = place // beam, found["tokens"].size(0)  # (B, N), (1,)
        path = self._back(found["slots"], slots.pick(place), lengths)
        turns, most = graph.range(longest), lengths.unsqueeze(2)  # (T,), (B, N, 1)
        tokens, totals = (found[name].pick(path, 2).transpose(1, 2, 0) for name in ("tokens", "sums"))  # (B, N, T)
        totals = graph.where(turns.equals(most), sums.pick(place).unsqueeze(2), totals)
        before = graph.concat(totals.cut(0, 1, 2) * 0.0, totals.cut(0, longest - 1, 2), axis=2)
        return {
            "tokens": graph.where(turns < most, tokens, PAD), "lengths": lengths, "scores": scores,
            "logps": graph.where(turns <= most, totals - before, 0.0),
        }  # fmt: skip

    def _back(self, slots: Value, last: Value, lengths: Value) -> Value:
        """The slots (T, B, N) of hypotheses in each pass, back from the `last` ones (B, N). slots (T, B, F)."""
        graph, longest = self.graph, slots.size(0)

        def turn(place: Value, state: State) -> tuple[Value, State, State]:
            turn, slot = longest - 1 - place, state["slot"]  # (1,)
            before = slots.gather(turn).squeeze(0).pick(slot)
            state = {"slot": graph.where(turn < lengths, before, slot)}
            return graph.value(True, bool), state, {"slots": slot}

        _, found = graph.loop(longest.squeeze(0), {"slot": last}, turn)
        return found["slots"].gather(longest - 1 - graph.range(longest))

    def _candidates(self, logps: Value, sums: Value, at_end: Value) -> tuple[Value, Value, Value]:
        """The best continuations: logps (R, V), sums (B, F), at_end (B, 1) -> totals, slots, tokens; (B, 2 F)."""
        graph, beam, batch = self.graph, self.options.beam, sums.size(0)
        count = min(beam, self.network.vocabulary - 1) + 1  # EOS and `beam` others of each row suffice
        values, tokens = logps.top(count)
        at_end = at_end.expand(batch, beam).reshape(-1, 1)  # (R, 1), where EOS is the only choice
        end = logps.cut(EOS, EOS + 1, 1) * (0.0 if self.options.free_end else 1.0)
        end = graph.where(end > IMPOSSIBLE / 2, end, 0.0)  # also where it is forbidden
        first = graph.range(graph.ints([count])).unsqueeze(0).equals(0)
        values = graph.where(at_end, graph.where(first, end, IMPOSSIBLE), values)
        tokens = graph.where(at_end, graph.where(first, EOS, PAD), tokens)
        totals = sums.unsqueeze(2) + values.reshape(batch, beam, count).to(np.float64)
        total, place = totals.reshape(batch, -1).top(2 * beam)
        return total, place // count, tokens.reshape(batch, -1).pick(place)

    def _ended(self, total: Value, token: Value, state: State, length: Value) -> tuple[Value, Value]:
        """Scores (B, F) of the candidates that end now, `IMPOSSIBLE` for the others, and the best so far (B, F)."""
        beam = self.options.beam
        ends = (token.equals(EOS) & (total > IMPOSSIBLE / 2) & state["going"]).cut(0, beam, 1)
        scores = self.graph.where(ends, total.cut(0, beam, 1) / lengthened(length, self.options), IMPOSSIBLE)
        return scores, self.graph.concat(state["best"], scores, axis=1).top(beam)[0]

    def _live(
        self, total: Value, slot: Value, token: Value, best: Value, going: Value, length: Value, limits: Value
    ) -> tuple[State, Value]:
        """The first F candidates that do not end, and which sentences (B, 1) go on."""
        graph, beam, stop = self.graph, self.options.beam, self.options.early_stopping
        is_eos = token.equals(EOS)
        order = is_eos.to(np.int64) * (2 * beam) + graph.range(graph.ints([2 * beam]))
        _, live = order.top(beam, largest=False)
        sums = graph.where(is_eos, IMPOSSIBLE, total).pick(live)
        most = sums.over("Max", 1, keep=True)
        reachable = most / lengthened(limits, self.options)  # sums only fall, lengths only grow
        hoped = most / lengthened(length, self.options) if stop == "likely" else reachable
        last, enough = best.cut(beam - 1, beam, 1), self.options.nbest
        short = last.equals(IMPOSSIBLE) if stop == "full" else last < hoped
        going = going & short & (best.cut(enough - 1, enough, 1) < reachable) & (limits > length)
        return {"tokens": token.pick(live), "slots": slot.pick(live), "sums": sums}, going


def scores(network: Network, memory: Source, frame: Value, side: Side, never: Unwritten) -> Value:
    """`ar_scores`: mean log-probability of the tokens and EOS of frame (R, T), BOS at first, in one pass. -> (R,)."""
    graph, width, rows = network.graph, network.knobs.width, frame.size(0)
    last = frame.size(1) - 1
    read, gold = frame.cut(0, last, 1), frame.cut(1, last + 1, 1)
    positions, keys = graph.range(last), None
    left = network.to_the_left(positions)
    if side == "query":  # a MASK at the place of each token sees those before it
        positions, keys = graph.concat(positions, positions + 1, axis=0), last
        left = graph.concat(left, left, axis=2)
        read = graph.concat(read, graph.ints([[MASK]]).expand(rows, last), axis=1)
    states, _ = network.decode(read, network.at(positions), memory, (left, left), keys=keys)
    if keys is not None:
        states = states.reshape(rows, -1, width).cut(keys, keys + keys, 1).reshape(-1, width)
    logps = graph.op("LogSoftmax", network.logits(states, never), axis=1)
    real = ~gold.equals(PAD)
    each = graph.where(real, logps.pick(gold.reshape(-1, 1)).reshape(rows, -1), 0.0)
    return each.over("Sum", 1) / real.to(np.float32).over("Sum", 1)
