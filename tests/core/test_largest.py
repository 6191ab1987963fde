"""The largest numbers of a row, found by stretches: what torch finds by going through it."""

from math import inf

import pytest
import torch
from torch import Tensor

from janus_cli.core import fast
from janus_cli.core.fast import STRETCH, argmax, topk

SHAPES = [(1, 70000), (70, 1000), (257, 256), (3, 40 * STRETCH), (3, 40 * STRETCH + 1), (5, 41 * STRETCH - 1), (2, 9)]


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "LONG", 0)


def numbers(shape: tuple[int, int], kind: str) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(shape[1]))
    if kind == "equals":  # a few different numbers, so that the largest stands in many places
        return values.round()
    if kind == "forbidden":
        return values.masked_fill(values < 2.0, -inf)
    if kind == "last":
        values[:, -1] = values[:, 0] = 9.0
    return values.to(torch.bfloat16 if kind == "bf16" else torch.float32)


@pytest.mark.parametrize("kind", ["plain", "equals", "forbidden", "last", "bf16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_argmax_is_the_first_of_the_largest(shape: tuple[int, int], kind: str) -> None:
    values = numbers(shape, kind)
    first = [row.index(max(row)) for row in values.tolist()]
    assert argmax(values).tolist() == first
    assert argmax(values).dtype == torch.int64


@pytest.mark.parametrize("count", [1, 2, 7, 11])
@pytest.mark.parametrize("kind", ["plain", "equals", "forbidden", "last", "bf16"])
@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_topk_has_the_numbers_of_torch_at_different_places(shape: tuple[int, int], kind: str, count: int) -> None:
    values = numbers(shape, kind)
    top, places = topk(values, count)
    assert torch.equal(top, values.topk(count, dim=1).values)
    assert torch.equal(values.gather(1, places), top)
    assert all(len(set(row)) == count for row in places.tolist())


def test_nan_is_the_largest_as_in_torch() -> None:
    values = numbers((4, 3000), "plain")
    values[2, 1234] = torch.nan
    assert argmax(values)[2] == values.argmax(1)[2] == 1234
    assert topk(values, 3)[1][2, 0] == 1234


@pytest.mark.parametrize(
    ("shape", "count", "is_worth_it"), [((10, 4000), 1, True), ((10, 4000), 20, False), ((10, 100), 1, False)]
)
def test_rows_that_are_short_are_left_to_torch(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], count: int, is_worth_it: bool
) -> None:
    asked: list[int] = []
    plain = fast._maxima
    monkeypatch.setattr(fast, "_maxima", lambda values: (asked.append(1), plain(values))[1])
    topk(torch.randn(shape), count)
    assert bool(asked) == is_worth_it
