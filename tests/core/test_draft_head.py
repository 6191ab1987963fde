"""The draft head: what it learns from, and that it learns which tokens follow each other."""

import torch

from janus_cli.core.batch import BOS, EOS, PAD
from janus_cli.core.draft_head import Draft, examples, fit
from janus_cli.core.shapes import CANDIDATES, NEAR

A, B, C, X = 10, 11, 12, 13


def drafted(*places: int) -> Draft:
    """One sentence whose likeliest token of each place is given; the others are unlikely."""
    tokens = torch.full((1, len(places), CANDIDATES), 40) + torch.arange(CANDIDATES)
    tokens[0, :, 0] = torch.tensor(places)
    logps = torch.full(tokens.shape, -9.0)
    logps[0, :, 0] = -0.1
    return Draft(tokens, logps, torch.tensor([len(places)]))


def test_each_token_is_followed_by_the_next_and_the_last_by_eos() -> None:
    found = examples(drafted(A, B), torch.tensor([[A, B, PAD]]))
    assert found.last.tolist() == [BOS, A, B]
    assert found.following.tolist() == [A, B, EOS]
    assert found.candidates.shape == (3, NEAR * CANDIDATES)


def test_candidates_are_those_near_the_place_of_the_last_token() -> None:
    """Also where the text has a word less than the draft, or one more."""
    shorter = examples(drafted(A, X, B, C), torch.tensor([[A, B, C]]))
    assert [row[CANDIDATES].item() for row in shorter.candidates[2:4]] == [C, EOS]  # the place after that of B, of C
    longer = examples(drafted(A, B, C), torch.tensor([[A, A, B, C]]))
    assert longer.candidates[4][CANDIDATES] == EOS


def test_a_head_learns_transitions_that_no_place_can_know() -> None:
    """Of two tokens that are equally likely at a place, the one before says which it is."""
    torch.manual_seed(0)
    table, pairs = torch.randn(60, 16), torch.randint(20, 40, (3000,))
    tokens = torch.stack([pairs, torch.full_like(pairs, 50), torch.full_like(pairs, 51)], 1)[:, None]
    either = torch.cat([tokens[:, :, 1:], tokens[:, :, 1:]], 2)  # at the second place: 50 or 51
    draft = Draft(
        torch.cat([tokens[:, :, :1].expand(-1, -1, CANDIDATES), either], 1),
        torch.tensor([[-0.1, -9.0, -9.0, -9.0], [-0.7, -0.7, -9.0, -9.0]]).expand(len(pairs), -1, -1),
        torch.full((len(pairs),), 2),
    )
    outputs = torch.stack([pairs, 50 + pairs % 2], 1)
    head, right = fit(table, examples(draft, outputs), rank=8)
    assert right > 0.95
    scores = table[pairs] @ head.before @ head.after.T @ table[50:52].T + head.bias[50:52]
    assert (scores.argmax(1) == pairs % 2).float().mean() > 0.95
