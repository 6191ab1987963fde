"""What a left-to-right search must not write next: the rules of core/search/rules.py, in a graph."""

from __future__ import annotations

import numpy as np

from janus_cli.core.knobs import Decoding
from janus_cli.core.symbols import EOS, PAD
from janus_cli.engines.graph import Value
from janus_cli.engines.network import IMPOSSIBLE

WORDS = "words"  # of a loop's state: what each row has read so far, (R, t)


class Rules:
    """ngram, least, first: as of `Obeying`. names: of the state that they need."""

    def __init__(self, options: Decoding) -> None:
        self.ngram, self.least, self.first = options.no_repeat_ngram, options.min_length, options.first_token
        self.names = [WORDS] if self.ngram else []

    def start(self, rows: Value) -> dict[str, Value]:
        """The state that they need, for so many rows (1,)."""
        return {WORDS: rows.graph.ints(np.zeros((1, 0))).expand(rows, 0)} if self.ngram else {}

    def read(self, state: dict[str, Value], last: Value) -> dict[str, Value]:
        """The state after `last` (R, 1); BOS is in no n-gram that could come again."""
        return {WORDS: last.graph.concat(state[WORDS], last, axis=1)} if self.ngram else {}

    def obeying(self, values: Value, state: dict[str, Value], place: Value) -> Value:
        """Logits or log-probabilities (R, V) of the token at `place` (), `IMPOSSIBLE` for what the rules forbid.

        A row that would have no token left keeps them all.
        """
        graph = values.graph
        forbidden = [self._repeating(state[WORDS])] if self.ngram else []
        if self.least:
            early = graph.where(place < self.least, EOS, PAD)
            forbidden.append(early.reshape(1, 1).expand(values.size(0), 1))
        if forbidden:
            places = graph.concat(*forbidden, axis=1)
            without = values.put(places, graph.floats([[IMPOSSIBLE]]).expand(places.size(0), places.size(1)))
            values = graph.where(without.over("Max", 1, keep=True) > IMPOSSIBLE / 2, without, values)
        if self.first:
            only = graph.range(values.size(1)).equals(self.first)
            values = graph.where(place.equals(0), graph.where(only, 0.0, IMPOSSIBLE), values)
        return values

    def _repeating(self, words: Value) -> Value:
        """The tokens that have followed a row's last n - 1 tokens before, else PAD. (R, t) -> (R, windows)."""
        graph, ngram, count = words.graph, self.ngram, words.size(1)
        windows = graph.op("Max", count - (ngram - 1), graph.ints([0]))
        start = count - windows
        following = words.cut(start, count, 1)  # all of each window but its last token lies before
        for index in range(ngram - 1):
            again = words.cut(index, windows + index, 1).equals(words.cut(windows + index, windows + index + 1, 1))
            following = graph.where(again, following, PAD)
        return following
