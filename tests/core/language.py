"""A left-to-right model without weights, for searches: the next token depends on the sentence and the prefix."""

from __future__ import annotations

from math import inf, log

import torch
from torch import Tensor

from janus_cli.core.batch import EOS, SPECIAL

A, B, C = SPECIAL, SPECIAL + 1, SPECIAL + 2
VOCABULARY = SPECIAL + 3
Prefix = tuple[int, ...]
Table = dict[Prefix, dict[int, float]]  # the probabilities of what follows a prefix


class Language:
    """One sentence for each seed (a random distribution after every prefix) or table (what is not in it is never)."""

    def __init__(self, sentences: list[int] | list[Table]) -> None:
        self.sentences = sentences
        self.known: dict[tuple[int, Prefix], Tensor] = {}

    def logps(self, sentence: int, prefix: Prefix) -> Tensor:
        """(V,) log-probabilities of the next token."""
        if (sentence, prefix) not in self.known:
            given, logps = self.sentences[sentence], torch.full((VOCABULARY,), -inf)
            if isinstance(given, int):
                draw = torch.Generator().manual_seed(hash((given, prefix)) % 2**31)
                logps[[EOS, A, B, C]] = 1.5 * torch.randn(4, generator=draw)
                logps = logps.log_softmax(0)
            else:
                for token, probability in given.get(prefix, {}).items():
                    logps[token] = log(probability)
            self.known[sentence, prefix] = logps
        return self.known[sentence, prefix]

    def next(self, sentence: int, prefix: Prefix, at_end: bool) -> tuple[int, float]:
        """The best token and its log-probability."""
        logps = self.logps(sentence, prefix)
        token = EOS if at_end else int(logps.argmax())
        return token, float(logps[token])


class Steps:
    """The steps of `beam_search` (`all`) and `greedy` (`best`) over a Language; follows which rows are kept."""

    def __init__(self, sentences: list[int] | list[Table]) -> None:
        self.language = Language(sentences)
        self.rows: list[tuple[int, Prefix]] = [(sentence, ()) for sentence in range(len(sentences))]
        self.passes: list[int] = []  # rows of each

    def _follow(self, last: Tensor, kept: Tensor | None) -> None:
        self.rows = self.rows if kept is None else [self.rows[row] for row in kept.tolist()]
        if self.passes:
            self.rows = [(s, (*prefix, int(t))) for (s, prefix), t in zip(self.rows, last, strict=True)]
        self.passes.append(len(last))

    def all(self, last: Tensor, parents: Tensor | None) -> Tensor:
        self._follow(last, parents)
        return torch.stack([self.language.logps(*row) for row in self.rows])

    def best(self, last: Tensor, kept: Tensor | None, at_end: Tensor) -> tuple[Tensor, Tensor]:
        self._follow(last, kept)
        found = [self.language.next(*row, bool(end)) for row, end in zip(self.rows, at_end, strict=True)]
        return torch.tensor([token for token, _ in found]), torch.tensor([logp for _, logp in found])
