"""What a draft holds: the text of speculative decoding is greedy's whatever is drafted, so only this tells."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import EOS, MASK, PAD
from janus_cli.core.generate import most_tokens
from janus_cli.core.knobs import Decoding
from janus_cli.core.model import Transformer
from janus_cli.core.search import mask_predict
from janus_cli.core.steps import AllTokens, Draft, Verify

SOURCE = torch.tensor([[5, 6, 7, 8, EOS], [9, 10, EOS, PAD, PAD]])
PREFIXES = [[11, 12], [13]]
LENGTHS = torch.tensor([6, 4])


def prefixes() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (A, P), counts (A,), sentences (A,)."""
    return torch.tensor([[11, 12], [13, PAD]]), torch.tensor([2, 1]), torch.arange(2)


def expected(model: Transformer, iters: int) -> list[list[int]]:
    """What mask-predict writes behind each prefix, alone, and EOS at the length that was predicted."""
    found = []
    for row, (prefix, length) in enumerate(zip(PREFIXES, LENGTHS.tolist(), strict=True)):
        source = SOURCE[row : row + 1, : int((SOURCE[row] != PAD).sum())]
        step = AllTokens(model, model.encode(source, source != PAD))
        known = torch.tensor([prefix + [MASK] * (length - len(prefix))])
        written, _, _ = mask_predict(step, known, iters)
        found.append([*written[0, len(prefix) :].tolist(), EOS])
    return found


def rows(proposals: Tensor) -> list[list[int]]:
    return [[token for token in row if token != PAD] for row in proposals.tolist()]


@pytest.mark.parametrize("iters", [1, 3])
def test_a_draft_is_what_mask_predict_writes_behind_the_prefix(model: Transformer, iters: int) -> None:
    options = Decoding(draft_iters=iters, max_ratio=3.0)
    memory = model.encode(SOURCE, SOURCE != PAD)
    draft = Draft(model, memory, LENGTHS, most_tokens(SOURCE, model, options), options)
    found, _ = draft(*prefixes())
    assert rows(found) == expected(model, iters)


@pytest.mark.parametrize("ar_stream", ["content", "query"])
def test_the_verifying_pass_drafts_the_same(model: Transformer, ar_stream: str) -> None:
    options = Decoding(redraft="joint", max_ratio=3.0)
    memory, most = model.encode(SOURCE, SOURCE != PAD), most_tokens(SOURCE, model, options)
    draft = Draft(model, memory, LENGTHS, most, options)
    verify = Verify(model, memory, ar_stream, most, int(most.max()), draft)
    tokens, counts, sentences = prefixes()
    nothing, never = torch.full((2, 1), PAD), torch.zeros(2, 2, dtype=torch.bool)
    for known in range(2):  # the tokens before the last one must be in the cache
        upto = counts.clamp(max=known)
        verify(tokens, upto, nothing, never, sentences, None)
    *_, proposals = verify(tokens, counts, nothing, never, sentences, None)
    assert rows(proposals) == expected(model, 1)
