"""Greedy and speculative decoding on scripted callables: whatever the draft says, the text is the greedy one."""

import random

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import EOS, PAD, SPECIAL
from janus_cli.core.search import Output, beam_search, greedy, speculative
from janus_cli.core.search.speculative import Draft, Redraft

VOCABULARY = SPECIAL + 4


class Language:
    """A left-to-right model without weights: the next token is a fixed function of sentence and prefix."""

    def __init__(self, seeds: list[int]) -> None:
        self.seeds = seeds
        self.known: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    def logps(self, sentence: int, prefix: tuple[int, ...]) -> Tensor:
        if (sentence, prefix) not in self.known:
            self.known[sentence, prefix] = self._logps(sentence, prefix)
        return self.known[sentence, prefix]

    def _logps(self, sentence: int, prefix: tuple[int, ...]) -> Tensor:
        draw = torch.Generator().manual_seed(hash((self.seeds[sentence], prefix)) % 2**31)
        logits = torch.full((VOCABULARY,), -torch.inf)
        logits[[EOS, *range(SPECIAL, VOCABULARY)]] = torch.randn(5, generator=draw) + torch.tensor([-0.5, 0, 0, 0, 0])
        return logits.log_softmax(0)

    def next(self, sentence: int, prefix: tuple[int, ...], at_end: bool) -> tuple[int, float]:
        logps = self.logps(sentence, prefix)
        token = EOS if at_end else int(logps.argmax())
        return token, float(logps[token])


class Steps:
    """The steps of `greedy` and `beam_search` over a Language; follows which rows are kept."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self.rows: list[tuple[int, tuple[int, ...]]] = [(s, ()) for s in range(len(language.seeds))]
        self.started = False

    def _follow(self, last: Tensor, kept: Tensor | None) -> None:
        self.rows = self.rows if kept is None else [self.rows[row] for row in kept.tolist()]
        if self.started:
            self.rows = [(s, (*prefix, int(t))) for (s, prefix), t in zip(self.rows, last, strict=True)]
        self.started = True

    def best(self, last: Tensor, kept: Tensor | None, at_end: Tensor) -> tuple[Tensor, Tensor]:
        self._follow(last, kept)
        found = [self.language.next(*row, bool(end)) for row, end in zip(self.rows, at_end, strict=True)]
        return torch.tensor([token for token, _ in found]), torch.tensor([logp for _, logp in found])

    def all(self, last: Tensor, parents: Tensor | None) -> Tensor:
        self._follow(last, parents)
        return torch.stack([self.language.logps(*row) for row in self.rows])


class Verifier:
    """The `verify` of `speculative`; checks what it is told against the text so far."""

    def __init__(self, language: Language, draft: Draft | None = None) -> None:
        self.language, self.sentences, self.draft = language, list(range(len(language.seeds))), draft
        self.texts: list[tuple[int, ...]] = [()] * len(self.sentences)
        self.verified: list[int] = []  # tokens of each proposal

    def __call__(
        self, tokens: Tensor, counts: Tensor, proposals: Tensor, at_end: Tensor, sentences: Tensor, kept: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if kept is not None:
            self.sentences = [self.sentences[row] for row in kept.tolist()]
        assert self.sentences == sentences.tolist()
        ahead = proposals[:, :0] if self.draft is None else self.draft(tokens, counts, sentences)[0]
        best, logps = torch.full(at_end.shape, SPECIAL), torch.zeros(at_end.shape)
        for row, sentence in enumerate(self.sentences):
            prefix = self.texts[sentence]
            assert prefix == tuple(tokens[row, : counts[row]].tolist())
            proposal = [token for token in proposals[row].tolist() if token != PAD]
            self.verified.append(len(proposal))
            going = True
            for place in range(len(proposal) + 1):
                text = (*prefix, *proposal[:place])
                best[row, place], logps[row, place] = self.language.next(sentence, text, bool(at_end[row, place]))
                if going:
                    self.texts[sentence] = (*text, int(best[row, place]))
                going = going and place < len(proposal) and int(best[row, place]) == proposal[place] != EOS
        return best, logps, ahead


def drafter(language: Language, skill: float, longest: int, seed: int = 0) -> Draft:
    """A draft that writes the right token with probability `skill`, of random length; it may be empty."""
    draw = random.Random(seed)

    def draft(tokens: Tensor, counts: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        rows = []
        for text, count, sentence in zip(tokens.tolist(), counts.tolist(), sentences.tolist(), strict=True):
            prefix: tuple[int, ...] = tuple(text[:count])
            assert PAD not in prefix
            written: list[int] = []
            for _ in range(draw.randint(0, longest)):
                right, _ = language.next(sentence, (*prefix, *written), False)
                written.append(right if draw.random() < skill else draw.randrange(SPECIAL, VOCABULARY))
                if written[-1] == EOS:
                    break
            rows.append(written)
        width = max(map(len, rows))
        return torch.tensor([row + [PAD] * (width - len(row)) for row in rows]).long(), torch.ones(len(rows)).long()

    return draft


def same(ours: list[Output], theirs: list[Output]) -> None:
    assert [o.tokens for o in ours] == [o.tokens for o in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.logps == pytest.approx(other.logps)


MOST = [9, 1, 4, 12, 12, 2, 12, 7, 12]


@pytest.mark.parametrize("seed", range(8))
def test_greedy_is_a_beam_of_one(seed: int) -> None:
    language = Language([seed * 100 + n for n in range(len(MOST))])
    ours = greedy(Steps(language).best, torch.tensor(MOST), length_penalty=0.6)
    theirs = [found[0] for found in beam_search(Steps(language).all, torch.tensor(MOST), 1, length_penalty=0.6)]
    same(ours, theirs)
    assert [o.score for o in ours] == pytest.approx([o.score for o in theirs])
    assert [o.passes for o in ours] == [o.passes for o in theirs] == [len(o.tokens) + 1 for o in ours]
    assert len({len(o.tokens) for o in ours}) > 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("skill", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("redraft", ["nar", "ar", "joint"])
@pytest.mark.parametrize("window", [1, 3, 20])
def test_speculative_text_is_greedy_text(seed: int, skill: float, redraft: Redraft, window: int) -> None:
    language = Language([seed * 100 + n for n in range(len(MOST))])
    expected = greedy(Steps(language).best, torch.tensor(MOST))
    draft = drafter(language, skill, 5, seed)
    verify = Verifier(language, draft if redraft == "joint" else None)
    found = speculative(draft, verify, torch.tensor(MOST), window, redraft)
    same(found, expected)
    assert max(verify.verified) <= window
    assert [text[:-1] for text in verify.texts] == [tuple(o.tokens) for o in expected]


def test_a_perfect_draft_needs_two_passes_and_a_useless_one_two_for_each_token() -> None:
    language = Language([3, 14, 15])
    most = torch.tensor([12, 12, 12])
    lengths = [len(o.tokens) for o in greedy(Steps(language).best, most)]
    assert max(lengths) > 2

    def whole(tokens: Tensor, counts: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        rows = []
        for sentence in sentences.tolist():
            text: list[int] = []
            while not text or text[-1] != EOS:
                text.append(language.next(sentence, tuple(text), len(text) == 11)[0])
            rows.append(text + [PAD] * (12 - len(text)))
        return torch.tensor(rows), torch.ones(len(rows)).long()

    assert [o.passes for o in speculative(whole, Verifier(language), most, 12)] == [2, 2, 2]

    def useless(tokens: Tensor, counts: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(counts), 4), VOCABULARY), torch.ones(len(counts)).long()

    assert [o.passes for o in speculative(useless, Verifier(language), most, 12)] == [2 * (n + 1) for n in lengths]


def test_what_verifying_leaves_over_is_the_next_draft() -> None:
    """A model that does not care what stands before: after one wrong token, all that is left over is right."""
    text = [5, 6, 7, 8, 5, 6, EOS]

    def draft(tokens: Tensor, counts: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        assert counts.tolist() == [0]  # it is asked once
        return torch.tensor([[5, 8, 7, 8, 5, 5, EOS]]), torch.tensor([1])

    def verify(
        tokens: Tensor, counts: Tensor, proposals: Tensor, at_end: Tensor, sentences: Tensor, kept: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        start = int(counts)
        right = (text[start:] + [5] * 9)[: at_end.shape[1]]
        return torch.tensor([right]), torch.zeros(at_end.shape), proposals

    (output,) = speculative(draft, verify, torch.tensor([20]), 20, "ar")
    assert output.tokens == text[:-1]
    assert output.passes == 3  # draft; 5 and 6; all the rest


def test_no_sentences() -> None:
    nobody = torch.empty(0, dtype=torch.int64)
    language = Language([])
    assert greedy(Steps(language).best, nobody) == []
    assert speculative(drafter(language, 1.0, 3), Verifier(language), nobody, 3) == []
