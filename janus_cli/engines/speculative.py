"""Greedy search that verifies drafts, as one ONNX graph for one sentence: greedy's text in fewer passes.

Drafts are copied from the source, or written by one NAR pass, which gives the likeliest tokens of every place of the
likeliest length. A draft is then a chain of these: what follows a token is sought at the places near its own, so that
the draft goes on where left-to-right search is, even if that needs more or fewer words. A draft head, if there is one,
says which tokens follow each other. What follows a token depends on nothing else, so all chains are known before the
first token is verified, and drafting costs little.

At batch 1 half of a pass's time goes to the number of its nodes, so what can be computed once is.

Speculative decoding: Leviathan et al., ICML 2023; Stern et al., NeurIPS 2018, for greedy search. The draft head:
`core/draft_head.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from janus_cli.core.knobs import Decoding
from janus_cli.core.shapes import CANDIDATES, DISTANCES, LONGEST, NEAR
from janus_cli.core.symbols import BOS, EOS, MASK, PAD
from janus_cli.core.writing import Unwritten
from janus_cli.engines.graph import State, Value
from janus_cli.engines.int8 import Rows
from janus_cli.engines.left_to_right import NextToken, Results, Side, length_limits, lengthened, of_end
from janus_cli.engines.network import IMPOSSIBLE, Network, Source
from janus_cli.engines.screen import Screen

SURE = 0.2  # probability of a draft after its first token; it is cut where it is less
FAR = 1 << 20  # more than any two places are apart


def of_head(head: Mapping[str, NDArray[Any]], table: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """A head as weights of a graph, with its transitions for each token, (V, r). table: (V, D), the output table."""
    found = {f"draft.{name}": each for name, each in head.items()}
    return found | {f"draft.{name}": table @ head[name] for name in ("before", "after")}


class Chains(NamedTuple):
    """What is drafted after a token at place p, for all p. C candidates near p; W tokens of a draft.

    reach (L + 2, C): the score in nats of each candidate after p, whatever the token at p.
    after (L + 2, C, r): vectors whose product with that token's vector is added; None without a draft head.
    The others are of the chains that begin with each candidate:
    tokens (C * (L + 2), W);
    counts (C * (L + 2), 1): how many of them are sure enough to be proposed;
    places (C * (L + 2), W + 1): where in the draft the next token is, after 0 to W of them were accepted.
    """

    reach: Value
    after: Value | None
    tokens: Value
    counts: Value
    places: Value


class Speculative:
    """`speculative` with one NAR pass, or none. L tokens of its draft, m proposals that a pass verifies."""

    def __init__(
        self, network: Network, options: Decoding, side: Side, never: Unwritten, *, screened: bool = False
    ) -> None:
        self.network, self.graph, self.side, self.never = network, network.graph, side, never
        self.window, self.options = min(options.verify_window, options.draft_length, LONGEST), options
        self.screen = Screen(network, never, Rows) if screened else None

    def search(self, source: Value) -> Results:
        """source (1, S), without PAD. Gives what `greedy` does."""
        graph, memory = self.graph, self.network.encode(source, padded=False)
        step = NextToken(self.network, memory, self.side, self.never)
        limit = length_limits(source, self.network.knobs.max_length, self.options)  # (1,)
        copies = self.options.redraft == "source"
        draft = _Copied(self, source) if copies else _Drafted(self, memory, limit)
        verify = _Verify(step, limit + (LONGEST + 1), self.screen)

        def turn(number: Value, state: State) -> tuple[Value, State, State]:
            new = verify(state)
            accepted, last = new.pop("accepted"), new.pop("last")
            going = (new["known"] < limit).squeeze(0) & ~last.equals(EOS)
            new |= draft.next(state, new, accepted, last)
            return going, new | {"last": last.unsqueeze(0), "passes": number + (1 + draft.passes)}, {}

        state = {
            "last": graph.ints([BOS]), "known": graph.ints([0]), "passes": graph.ints(draft.passes),
            "tokens": graph.ints(np.zeros(0)), "states": graph.floats(np.zeros((1, self.network.knobs.width))),
            **draft.first(), **step.empty(graph.ints([1])),
        }  # fmt: skip
        if self.screen is None:
            state["logps"] = graph.floats(np.zeros(0))
        last, _ = graph.loop(limit.squeeze(0), state, turn)
        return self._ended(last, limit)

    def _ended(self, last: State, limit: Value) -> Results:
        """What the loop's last state says. What is written at the limit (1,) is EOS, whatever the model would write."""
        graph, known, states = self.graph, last["known"], last["states"]
        size = graph.op("Min", known, limit)
        forced = ~(size < limit)
        found = {
            "tokens": last["tokens"].cut(0, size - 1, 0).unsqueeze(0, 1), "lengths": (size - 1).unsqueeze(0),
            "passes": last["passes"].unsqueeze(0), "limited": forced.unsqueeze(0),
        }  # fmt: skip
        end = graph.floats([0.0])
        if not self.options.free_end:
            end = of_end(self.network, self.never, states.gather(size - 1 - known + states.size(0)), forced).squeeze(1)
            found["limited"] = (forced & (end <= log(0.5))).unsqueeze(0)
        if self.screen is not None:
            return found
        end = graph.where(forced, end, last["logps"].gather(size - 1))
        logps = graph.concat(last["logps"].cut(0, size - 1, 0), end, axis=0)
        score = logps.over("Sum", 0, keep=True).to(np.float64) / lengthened(size, self.options)
        return found | {"logps": logps.unsqueeze(0, 1), "scores": score.unsqueeze(0)}


class _Drafted:
    """Drafts of one NAR pass."""

    passes = 1

    def __init__(self, search: Speculative, memory: Source, limit: Value) -> None:
        self.network, self.graph, self.window, self.never = search.network, search.graph, search.window, search.never
        self.logits = (search.screen or search.network).logits  # a draft may have them rounded
        self.fan = min(CANDIDATES, self.network.vocabulary - 1)
        self.near = NEAR * self.fan
        self.head = "draft.before" in self.network.shapes
        self.chains = self._chains(memory, limit)

    def first(self) -> State:
        """What the loop keeps of the draft, with the first `proposals` (m,)."""
        return self._after(self.graph.ints(0), self.graph.ints(BOS))

    def next(self, state: State, new: State, accepted: Value, last: Value) -> State:
        """The same after so many proposals of `state` were `accepted` () and the token `last` () was written.

        new: the text so far, `tokens` (T,), and `known` (1,), T.
        """
        return self._after(state["places"].gather(accepted), last)

    def _after(self, place: Value, last: Value) -> State:
        """The places and proposals after the token `last` () at `place` ()."""
        graph, chains = self.graph, self.chains
        scores = chains.reach.gather(place)
        if chains.after is not None:
            before = self.network.weight("draft.before").gather(last)  # (r,)
            scores = scores + graph.op("MatMul", chains.after.gather(place), before)
        first = place * self.near + graph.op("ArgMax", scores, result=np.int64, axis=0, keepdims=0)
        proposals = chains.tokens.gather(first).cut(0, chains.counts.gather(first), 0)
        return {"places": chains.places.gather(first), "proposals": proposals}

    def _chains(self, memory: Source, limit: Value) -> Chains:
        """The NAR pass, and all that follows from it."""
        graph, network, fan = self.graph, self.network, self.fan
        tokens, scores, length = self._candidates(memory, limit)
        every, place = length + 2, graph.range(length + 2).unsqueeze(1)  # BOS, the draft, EOS: (L + 2, 1)
        near = place + graph.range(graph.ints([NEAR]))
        after, distances = None, graph.floats(DISTANCES)
        if self.head:
            distances = network.weight("draft.distances")
            scores = scores + network.weight("draft.bias").gather(tokens)
        reach = (scores.gather(near) + distances.unsqueeze(1)).reshape(-1, 1, self.near)
        joint = reach
        if self.head:
            before = network.weight("draft.before").gather(tokens.cut(0, every, 0))  # (L + 2, fan, r)
            after = network.weight("draft.after").gather(tokens.gather(near).reshape(-1, self.near))
            joint = reach + graph.op("MatMul", before, graph.op("Transpose", after, perm=[0, 2, 1]))
        joint = joint.expand(every, fan, self.near)
        jump = (graph.op("ArgMax", joint, result=np.int64, axis=2, keepdims=0) + place * fan).reshape(-1)
        sure = graph.op("LogSoftmax", joint, axis=2).over("Max", 2).reshape(-1)
        ids = tokens.cut(0, every, 0).reshape(-1)  # (Q,)
        chain, counts = self._follow(jump, sure, graph.where(ids.equals(EOS), IMPOSSIBLE, 0.0))
        begin = graph.op("Min", (place * fan + graph.range(graph.ints([self.near]))).reshape(-1), every * fan - 1)
        chain, own = chain.gather(begin), place.expand(every, self.near).reshape(-1, 1)
        places = graph.op("Min", graph.concat(own, chain // fan, axis=1) + 1, length + 1)
        return Chains(reach.squeeze(1), after, ids.gather(chain), counts.gather(begin), places)

    def _follow(self, jump: Value, sure: Value, ends: Value) -> tuple[Value, Value]:
        """What follows each candidate: jump (Q,) its successor, sure (Q,) of that, nats; ends (Q,), IMPOSSIBLE for EOS.

        Gives the chains (Q, W) of candidates, themselves first, and how many (Q, 1) of these are sure and before EOS.
        """
        graph, size = self.graph, 1
        chain, certainty = graph.range(jump.size(0)).unsqueeze(1), ends.unsqueeze(1)
        sure = sure + ends
        while size < self.window:
            chain = graph.concat(chain, chain.gather(jump), axis=1)
            certainty = graph.concat(certainty, certainty.gather(jump) + sure.unsqueeze(1), axis=1)
            sure, jump, size = sure + sure.gather(jump), jump.gather(jump), 2 * size
        chain, certainty = (each.cut(0, self.window, 1) for each in (chain, certainty))
        return chain, (certainty > log(SURE)).to(np.int64).over("Sum", 1, keep=True)

    def _candidates(self, memory: Source, limit: Value) -> tuple[Value, Value, Value]:
        """Tokens and scores (L + 1 + NEAR, fan) of BOS, the draft, EOS and places after it; the length L (1,)."""
        graph, network, fan = self.graph, self.network, self.fan
        known = network.length_logits(memory).cut(1, network.knobs.max_length - 1, 1)
        length = graph.op("ArgMax", known, result=np.int64, axis=1, keepdims=0) + 1
        length = graph.op("Max", graph.op("Min", length, limit - 1), graph.ints([1]))
        frame = graph.concat(graph.ints([BOS]), graph.ints([MASK]).expand(length), graph.ints([EOS]), axis=0)
        positions = graph.range(length + 2)
        left = network.to_the_left(positions) if network.knobs.causal_attention else None
        states, _ = network.decode(frame, network.at(positions), memory, (None, left), alone=True)
        logits = self.logits(states.cut(1, length + 1, 0), self.never.or_eos)
        logps = graph.op("LogSoftmax", network.allowed(logits, self.never.or_eos), axis=1)
        if self.head:
            logps = logps * network.weight("draft.scale")
        scores, tokens = logps.top(fan)
        outside = np.full((1 + NEAR, fan), IMPOSSIBLE)
        outside[1, 0] = 0.0  # EOS
        ids = np.full((1 + NEAR, fan), EOS)
        ids[0] = BOS
        scores = graph.concat(graph.floats(outside[:1]), scores, graph.floats(outside[1:]), axis=0)
        return graph.concat(graph.ints(ids[:1]), tokens, graph.ints(ids[1:]), axis=0), scores, length


class _Copied:
    """Drafts that are what follows in the source: `Copied` of core/search/speculative.py, but as long as pays.

    That is twice as long as what was accepted last.
    """

    passes = 0

    def __init__(self, search: Speculative, source: Value) -> None:
        self.graph, self.most = search.graph, search.window
        self.source = self.graph.where(source.equals(EOS), PAD, source).squeeze(0)  # (S,); no draft goes beyond EOS
        self.before = self.graph.concat(self.graph.ints([BOS]), self.source, axis=0).cut(0, self.source.size(0), 0)
        self.places = self.graph.range(self.source.size(0)) + 1  # of the token after each

    def first(self) -> State:
        """As `_Drafted`."""
        return {"proposals": self.source.cut(0, self.most, 0)}

    def next(self, state: State, new: State, accepted: Value, last: Value) -> State:
        """As `_Drafted`."""
        graph, known = self.graph, new["known"]
        before = graph.concat(graph.ints([BOS, BOS]), new["tokens"], axis=0).gather(known)
        ones = self.source.equals(last)
        twos = ones & self.before.equals(before)
        distance = graph.op("Abs", self.places - known)
        alike = (ones.to(np.int64) + twos.to(np.int64)) * FAR - distance
        start = graph.op("ArgMax", alike, result=np.int64, axis=0, keepdims=1) + 1
        count = graph.op("Min", accepted * 2 + 2, graph.ints(self.most)).unsqueeze(0)
        return {"proposals": self.source.cut(start, start + count, 0)}


class _Verify:
    """A pass over the last token and proposals. most: (1,), slots that there will ever be, at most."""

    def __init__(self, step: NextToken, most: Value, screen: Screen | None) -> None:
        self.step, self.network, self.graph, self.screen = step, step.network, step.network.graph, screen
        self.left = self.network.to_the_left(self.graph.range(most))  # (1, 1, most, most)
        beyond = self.graph.floats(np.zeros((LONGEST + 2, self.network.knobs.width)))
        self.positions = self.graph.concat(self.network.weight("target_positions"), beyond, axis=0)

    def __call__(self, state: State) -> State:
        """The state with what was accepted of its proposals (m,) and the model's own token after them, `last` ().

        Also states (a + 1, D), which the tokens that come to the text were predicted from.
        """
        graph, known, more = self.graph, state["known"], State()
        states, cache = self._states(graph.concat(state["last"], state["proposals"], axis=0), known, state)
        if self.screen is None:
            logits = self.network.logits(states, self.step.never)
            best = graph.op("ArgMax", self._allowed(logits), result=np.int64, axis=1, keepdims=0)
        else:
            best = self.screen(states, self._allowed).squeeze(1)
        agreed = best.equals(graph.concat(state["proposals"], graph.ints([-1]), axis=0)).to(np.int32)
        accepted = graph.op("ArgMin", agreed, result=np.int64, axis=0, keepdims=0)
        count = accepted.unsqueeze(0) + 1
        written, end = best.cut(0, count, 0), known + count
        if self.screen is None:
            logps = self._allowed(graph.op("LogSoftmax", logits.cut(0, count, 0), axis=1)).over("Max", 1)
            more["logps"] = graph.concat(state["logps"], logps, axis=0)
        return {
            "tokens": graph.concat(state["tokens"], written, axis=0), "last": best.gather(accepted),
            "states": states.cut(0, count, 0), **more,
            "accepted": accepted, "known": end, **{name: cache[name].cut(0, end, 2) for name in self.step.names},
        }  # fmt: skip

    def _allowed(self, values: Value) -> Value:
        return self.network.allowed(values, self.step.never)

    def _states(self, read: Value, known: Value, cache: State) -> tuple[Value, State]:
        """read (m + 1,), after `known` (1,) slots in the cache -> (m + 1, D), and the cache with their slots."""
        graph, count, step = self.graph, read.size(0), self.step
        end, keys = known + count, None
        seen, positions = self.left.cut(known, end, 2).cut(0, end, 3), self.positions.cut(known, end, 0)
        if step.side == "query":  # MASKs, each at the next position, that see what the tokens see
            read = graph.concat(read, graph.ints([MASK]).expand(count), axis=0)
            positions = graph.concat(positions, self.positions.cut(known + 1, end + 1, 0), axis=0)
            seen, keys = graph.concat(seen, seen, axis=2), count
        pasts = [cache[name] for name in step.names]
        states, kept = self.network.decode(read, positions, step.memory, (seen, seen), pasts, keys=keys, alone=True)
        if step.side == "query":
            states = states.cut(count, count + count, 0)
        return states, dict(zip(step.names, kept, strict=True))
