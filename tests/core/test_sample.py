"""Sampling: each sample against plain Python, the frequencies against the probabilities, and what does not matter."""

from __future__ import annotations

from math import exp, inf, log
from typing import Any

import pytest
import torch

from janus_cli.core.batch import EOS, PAD, pad
from janus_cli.core.search import Output
from janus_cli.core.search import sample as sampling
from janus_cli.core.search.greedy import greedy
from janus_cli.core.search.rules import Obeying
from janus_cli.core.search.sample import Gumbel, likeliest, row_keys, sample
from tests.core.language import A, B, Language, Steps

BITS = (1 << 64) - 1
TEXTS = [[5, 6, EOS], [7, EOS], [5, 6, 7, 8, EOS], [9, 9, EOS], [6, 5, EOS], [8, EOS], [7, 7, 7, EOS]]


def splitmix(x: int) -> int:
    """Steele et al. 2014, with Python's own integers."""
    x = ((x + 1) * 0x9E3779B97F4A7C15) & BITS
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & BITS
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & BITS
    return x ^ (x >> 31)


def key_by_hand(ids: list[int], seed: int, number: int) -> int:
    text = sum(splitmix(splitmix(token) + place) for place, token in enumerate(ids))
    return splitmix(splitmix(splitmix(seed) + text) + number)


def by_hand(
    language: Language, sentence: int, most: int, key: int, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[list[int], float]:
    """A sample, and its log-probability."""
    tokens: list[int] = []
    total = 0.0
    while True:
        logps = language.logps(sentence, tuple(tokens)).tolist()
        order = sorted(range(len(logps)), key=lambda token: -logps[token])[: top_k or None]
        best = logps[order[0]]
        weights = [exp((logps[token] - best) / temperature) if logps[token] > -inf else 0.0 for token in order]
        kept, mass = [], 0.0
        for token, weight in zip(order, weights, strict=True):
            if weight and (top_p == 1 or mass < top_p * sum(weights)):
                kept.append(token)
            mass += weight

        def perturbed(token: int, logps: list[float] = logps, best: float = best) -> float:
            uniform = max((splitmix(splitmix(key + len(tokens)) + token) >> 11) / (1 << 53), 2.0**-54)
            return (logps[token] - best) / temperature - log(-log(uniform))

        token = EOS if len(tokens) + 1 == most else max(kept, key=perturbed)
        total += logps[token]
        if token == EOS:
            return tokens, total
        tokens.append(token)


def samples(
    seeds: list[int], texts: list[list[int]], most: list[int], count: int, seed: int = 1, **how: Any
) -> list[list[Output]]:
    draw = Gumbel(row_keys(pad(texts), seed, count), **{"temperature": 1.0, **how})
    return sample(Steps(seeds).all, draw, torch.tensor(most, dtype=torch.int64), count)


@pytest.mark.parametrize(
    "how",
    [
        {}, {"temperature": 0.6}, {"temperature": 1.7}, {"top_k": 1}, {"top_k": 2}, {"top_k": 99}, {"top_p": 0.5},
        {"top_p": 0.9}, {"top_p": 1e-9}, {"top_k": 3, "top_p": 0.6, "temperature": 1.3},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 3])
def test_each_sample_is_what_plain_python_draws(how: dict[str, Any], count: int) -> None:
    seeds, most = list(range(len(TEXTS))), [1, 9, 9, 4, 9, 2, 9]
    found, language = samples(seeds, TEXTS, most, count, seed=5, **how), Language(seeds)
    for sentence, (text, outputs) in enumerate(zip(TEXTS, found, strict=True)):
        keys = [key_by_hand(text, 5, number) for number in range(count)]
        drawn = [by_hand(language, sentence, most[sentence], key, **{"temperature": 1.0, **how}) for key in keys]
        expected = sorted(((logp / (len(tokens) + 1), tokens) for tokens, logp in drawn), key=lambda pair: -pair[0])
        assert [each.tokens for each in outputs] == [tokens for _, tokens in expected]
        assert [each.score for each in outputs] == pytest.approx([score for score, _ in expected], abs=1e-5)
        assert all(len(each.logps) == len(each.tokens) + 1 for each in outputs)
        assert {each.passes for each in outputs} == {max(len(each.tokens) for each in outputs) + 1}


def test_neither_neighbours_nor_order_nor_padding_nor_the_number_of_samples_matter() -> None:
    seeds, most = list(range(len(TEXTS))), [7] * len(TEXTS)
    together = samples(seeds, TEXTS, most, 3)
    for place, seed in enumerate(seeds):
        ((*alone,),) = samples([seed], [TEXTS[place]], [7], 3)
        assert alone == together[place]
        padded = samples([seed], [[*TEXTS[place], PAD, PAD]], [7], 3)
        assert padded == [alone]
        (first,), *_ = samples([seed], [TEXTS[place]], [7], 1)
        assert first.tokens in [each.tokens for each in alone]
    backwards = samples(seeds[::-1], TEXTS[::-1], most, 3)
    assert backwards == together[::-1]
    assert samples(seeds, TEXTS, most, 3, seed=2) != together
    assert len({tuple(each.tokens) for outputs in together for each in outputs}) > len(TEXTS)
    assert samples([], [], [], 3) == []


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 3, 1.0), (1.0, 0, 0.6)]
)
def test_tokens_come_as_often_as_they_are_likely(temperature: float, top_k: int, top_p: float) -> None:
    probabilities = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    count = 20_000
    draw = Gumbel(row_keys(torch.arange(count)[:, None] + 5, 3, 1), temperature, top_k, top_p)
    drawn = draw(probabilities.log().expand(count, -1), torch.arange(count), 4)
    expected = probabilities ** (1 / temperature)
    expected[top_k or 5 :] = 0.0
    expected[2 if top_p == 0.6 else 5 :] = 0.0
    frequencies = torch.bincount(drawn, minlength=5) / count
    assert torch.allclose(frequencies, expected / expected.sum(), atol=0.015), "four standard deviations"


@pytest.mark.parametrize("temperature", [1e-300, 1e-9, 0.001])
def test_the_colder_the_more_like_greedy(temperature: float) -> None:
    seeds, most = list(range(len(TEXTS))), torch.tensor([8] * len(TEXTS))
    cold = samples(seeds, TEXTS, most.tolist(), 1, temperature=temperature)
    assert [each.tokens for (each,) in cold] == [each.tokens for each in greedy(Steps(seeds).best, most)]


def test_few_suffice_for_top_p_and_where_they_do_not_all_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(9, 50, generator=torch.Generator().manual_seed(1))

    def kept(top_p: float) -> list[list[int]]:
        found, tokens = likeliest(scores, 0, top_p)
        return [
            sorted(t for t, s in zip(*row, strict=True) if s > -inf)
            for row in zip(tokens.tolist(), found.tolist(), strict=True)
        ]

    for top_p in (0.1, 0.5, 0.95):
        shares = scores.double().softmax(1)
        order = shares.sort(dim=1, descending=True)
        expected = [
            sorted(order.indices[row, : int((order.values[row].cumsum(0) < top_p).sum()) + 1].tolist())
            for row in range(9)
        ]
        for few in (2, 8, 256):
            monkeypatch.setattr(sampling, "FEW", few)
            assert kept(top_p) == expected


def test_rules_hold_for_samples_too() -> None:
    seeds = list(range(len(TEXTS)))
    step = Obeying(Steps(seeds).all, ngram=1, least=2)
    draw = Gumbel(row_keys(pad(TEXTS), 1, 4), 1.5)
    for outputs in sample(step, draw, torch.tensor([9] * len(TEXTS)), 4):
        assert all(len(each.tokens) >= 2 and len({*each.tokens}) == len(each.tokens) for each in outputs)


def test_what_has_ended_waits_for_the_other_samples_of_its_sentence() -> None:
    """The encoded source is shared by rows side by side, so a sentence leaves as a whole."""
    ends = {(): {A: 0.5, EOS: 0.5}, (A,): {B: 1.0}, (A, B): {EOS: 1.0}}
    steps = Steps([ends] * 4)
    draw = Gumbel(row_keys(torch.tensor([[5], [6], [7], [8]]), 1, 2), 1.0)
    found = sample(steps.all, draw, torch.tensor([9] * 4), 2)
    longest = [max(len(each.tokens) for each in outputs) for outputs in found]
    assert steps.passes == [4, *(2 * sum(size + 1 > place for size in longest) for place in (1, 2))]
    assert [[each.passes for each in outputs] for outputs in found] == [[size + 1] * 2 for size in longest]
