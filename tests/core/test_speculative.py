"""Greedy and speculative decoding on scripted callables: whatever the draft says, the text is the greedy one."""

import random
from functools import partial

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import EOS, MASK, PAD, SPECIAL
from janus_cli.core.generate import length_limit
from janus_cli.core.knobs import Decoding
from janus_cli.core.model import Transformer
from janus_cli.core.search import Output
from janus_cli.core.search.beam import Ending, beam_search
from janus_cli.core.search.greedy import greedy
from janus_cli.core.search.mask_predict import mask_predict
from janus_cli.core.search.speculative import Draft, Redraft, speculative
from janus_cli.core.steps import Draft as ModelDraft
from janus_cli.core.steps import fill_masks
from tests.core.language import VOCABULARY, Language, Prefix, Steps


class Verifier:
    """The `verify` of `speculative`; checks what it is told against the text so far."""

    def __init__(self, language: Language) -> None:
        self.language, self.sentences = language, list(range(len(language.sentences)))
        self.texts: list[Prefix] = [()] * len(self.sentences)
        self.verified: list[int] = []  # tokens of each proposal

    def __call__(
        self, tokens: Tensor, counts: Tensor, proposals: Tensor, at_end: Tensor, kept: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if kept is not None:
            self.sentences = [self.sentences[row] for row in kept.tolist()]
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
        return best, logps


def drafter(language: Language, skill: float, longest: int, seed: int = 0) -> Draft:
    """A draft that writes the right token with probability `skill`, of random length; it may be empty."""
    draw = random.Random(seed)

    def draft(tokens: Tensor, counts: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        rows = []
        for text, count, sentence in zip(tokens.tolist(), counts.tolist(), sentences.tolist(), strict=True):
            prefix: Prefix = tuple(text[:count])
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


@pytest.mark.parametrize("free_end", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_greedy_is_a_beam_of_one(seed: int, free_end: bool) -> None:
    sentences, most = [seed * 100 + n for n in range(len(MOST))], torch.tensor(MOST)
    ours = greedy(Steps(sentences).best, most, length_penalty=0.6, free_end=free_end)
    ending = Ending(free=free_end)
    theirs = [found[0] for found in beam_search(Steps(sentences).all, most, 1, length_penalty=0.6, ending=ending)]
    same(ours, theirs)
    assert [o.limited for o in ours] == [o.limited for o in theirs]
    assert any(o.logps[-1] == 0.0 for o in ours) == free_end
    assert [o.score for o in ours] == pytest.approx([o.score for o in theirs])
    assert [o.passes for o in ours] == [o.passes for o in theirs] == [len(o.tokens) + 1 for o in ours]
    assert len({len(o.tokens) for o in ours}) > 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("skill", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("redraft", ["nar", "ar"])
@pytest.mark.parametrize("window", [1, 3, 20])
def test_speculative_text_is_greedy_text(seed: int, skill: float, redraft: Redraft, window: int) -> None:
    sentences = [seed * 100 + n for n in range(len(MOST))]
    expected = greedy(Steps(sentences).best, torch.tensor(MOST))
    draft = drafter(Language(sentences), skill, 5, seed)
    verify = Verifier(Language(sentences))
    found = speculative(draft, verify, torch.tensor(MOST), window, redraft)
    same(found, expected)
    assert max(verify.verified) <= window
    assert [text[:-1] for text in verify.texts] == [tuple(o.tokens) for o in expected]


def test_a_perfect_draft_needs_two_passes_and_a_useless_one_two_for_each_token() -> None:
    sentences, most = [3, 14, 16], torch.tensor([12, 12, 12])
    expected = [[*o.tokens, EOS] for o in greedy(Steps(sentences).best, most)]
    assert max(map(len, expected)) > 3

    def perfect(tokens: Tensor, counts: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        texts = [expected[row] + [PAD] * (12 - len(expected[row])) for row in rows.tolist()]
        return torch.tensor(texts), torch.ones_like(rows)

    def useless(tokens: Tensor, counts: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(rows), 4), VOCABULARY), torch.ones_like(rows)

    for draft, passes in ((perfect, [2, 2, 2]), (useless, [2 * len(text) for text in expected])):
        assert [o.passes for o in speculative(draft, Verifier(Language(sentences)), most, 12)] == passes


def test_what_verifying_leaves_over_is_the_next_draft() -> None:
    """A model that does not care what stands before: after one wrong token, all that is left over is right."""
    text = [5, 6, 7, 8, 5, 6, EOS]

    def draft(tokens: Tensor, counts: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        assert counts.tolist() == [0]  # it is asked once
        return torch.tensor([[5, 8, 7, 8, 5, 5, EOS]]), torch.tensor([1])

    def verify(tokens: Tensor, counts: Tensor, proposals: Tensor, at_end: Tensor, *_: object) -> tuple[Tensor, ...]:
        start = int(counts)
        right = (text[start:] + [5] * 9)[: at_end.shape[1]]
        return torch.tensor([right]), torch.zeros(at_end.shape)

    (output,) = speculative(draft, verify, torch.tensor([20]), 20, "ar")
    assert output.tokens == text[:-1]
    assert output.passes == 3  # draft; 5 and 6; all the rest


def test_no_sentences() -> None:
    nobody = torch.empty(0, dtype=torch.int64)
    assert greedy(Steps([]).best, nobody) == []
    assert speculative(drafter(Language([]), 1.0, 3), Verifier(Language([])), nobody, 3) == []


SOURCE = torch.tensor([[5, 6, 7, 8, EOS], [9, 10, EOS, PAD, PAD]])
PREFIXES = torch.tensor([[11, 12], [13, PAD]]), torch.tensor([2, 1]), torch.arange(2)  # tokens, counts, sentences


@pytest.mark.parametrize("iters", [1, 3])
def test_a_draft_is_what_mask_predict_writes_behind_the_prefix(model: Transformer, iters: int) -> None:
    """The text is greedy's whatever is drafted, so only this tells."""
    lengths = torch.tensor([6, 4])
    options = Decoding(draft_iters=iters, max_ratio=3.0)
    memory = model.encode(SOURCE, SOURCE != PAD)
    most = length_limit((SOURCE != PAD).sum(1) - 1, model.knobs.max_length, options)
    draft = ModelDraft(model, memory, lengths, most, options)
    tokens, counts, _ = PREFIXES
    proposals, _ = draft(*PREFIXES)
    for row, length in enumerate(lengths.tolist()):
        source = SOURCE[row : row + 1, : int((SOURCE[row] != PAD).sum())]
        step = partial(fill_masks, model, model.encode(source, source != PAD))
        prefix = tokens[row, : counts[row]].tolist()
        written, _, _ = mask_predict(step, torch.tensor([prefix + [MASK] * (length - len(prefix))]), iters)
        assert [t for t in proposals[row].tolist() if t != PAD] == [*written[0, len(prefix) :].tolist(), EOS]
