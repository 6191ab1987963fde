"""Products in int8: close to float32, and no row is rounded by what stands beside it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from janus_cli.core.knobs import Decoding
from janus_cli.engines import int8
from janus_cli.engines.engine import Engine
from janus_cli.engines.graph import Graph
from janus_cli.engines.int8 import Blocks, Quantized, Rows
from janus_cli.engines.session import Session
from tests.engines.test_engine import BATCH, MODELS, SEARCHES, exact_int8, model_of

INT8 = {name: search for name, search in SEARCHES.items() if name in ("greedy", "beam", "five lengths", "AR reranks")}


def session(kernel: Any, weight: np.ndarray[Any, Any]) -> Session:
    graph = Graph()
    x = graph.input("x", np.float32, ["N", weight.shape[1]])
    graph.outputs = {"y": kernel(graph)(x, "w", weight.shape, graph.floats(np.zeros(len(weight))))}
    return Session(graph, Quantized(w=weight), threads=1)


@exact_int8
@pytest.mark.parametrize("kernel", [Rows, Blocks])
@pytest.mark.parametrize("width", [40, 200, 512])
def test_a_product_is_wrong_by_no_more_than_its_bounds(kernel: Any, width: int) -> None:
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(700, width)).astype(np.float32) * np.geomspace(0.1, 10, 700, dtype=np.float32)[:, None]
    x = draw.normal(size=(200, width)).astype(np.float32)
    scale = np.abs(x).max(1, keepdims=True) / 127
    x[:100] = (np.floor(x[:100] / scale[:100]) + 0.5 + 1e-4 * np.sign(weight[-1])) * scale[:100]  # half a step off
    error = np.abs(session(kernel, weight)(x=x)["y"] - x.astype(np.float64) @ weight.T)
    largest, length = Quantized(w=weight)["w" + kernel.suffixes[2]][:, 0]
    bound = np.abs(x).max(1) * largest + np.linalg.norm(x, axis=1) * length
    assert (error.max(1) <= bound).all()
    assert (error.max(1) > bound / 50).all()  # nor is it out of all proportion


@pytest.mark.parametrize("kernel", [Rows, Blocks])
@pytest.mark.parametrize("width", [64, 200])
def test_every_row_has_its_own_scale(kernel: Any, width: int) -> None:
    """With one scale for all, the small rows would be rounded to zeros."""
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(48, width)).astype(np.float32) * np.geomspace(1e-3, 1e3, 48, dtype=np.float32)[:, None]
    x = draw.normal(size=(6, width)).astype(np.float32) * np.array([[1e-4], [1], [1e4], [0], [1], [1e-2]], np.float32)
    run = session(kernel, weight)
    y, expected = run(x=x)["y"], x @ weight.T
    error = np.abs(y - expected).mean(1) / np.maximum(np.abs(expected).mean(1), 1e-30)
    assert (error < 0.05).all()
    assert run(x=x[2:3])["y"] == pytest.approx(y[2:3], rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("kernel", [Rows, Blocks])
@pytest.mark.parametrize("most", [63, 127])
def test_inputs_are_rounded(kernel: Any, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that lose nothing by it show that products are not those of float32."""
    monkeypatch.setattr(int8, "levels", lambda: most)
    draw = np.random.default_rng(1)
    weight, x = draw.integers(-127, 128, size=(32, 64)).astype(np.float32), draw.normal(size=(5, 64)).astype(np.float32)
    weight[:, 0] = 127.0
    error = np.abs(session(kernel, weight)(x=x)["y"] - x @ weight.T).mean() / np.abs(x @ weight.T).mean()
    assert 1e-4 < error < 0.03


@pytest.mark.parametrize("kernel", [Rows, Blocks])
def test_nothing_overflows(kernel: Any) -> None:
    """Where products of 8 bits are added in 16, as without VNNI, the largest numbers side by side would."""
    weight, x = np.full((16, 64), 3.0, np.float32), np.full((2, 64), 2.0, np.float32)
    assert session(kernel, weight)(x=x)["y"] == pytest.approx(384.0, rel=0.01)
    assert session(kernel, weight)(x=-x)["y"] == pytest.approx(-384.0, rel=0.01)


@pytest.mark.parametrize("knobs", [MODELS["pre"], MODELS["as imported"]], ids=["pre", "as imported"])
def test_scores_are_close_and_neighbours_change_nothing(knobs: dict[str, Any]) -> None:
    engine = Engine(model_of(**knobs))
    for mode, changes in INT8.values():
        options = Decoding(**changes)
        plain, narrow = (
            engine(BATCH, mode, replace(options, precision=kind), "content") for kind in ("float32", "int8")
        )
        assert [row[0].score for row in narrow] == pytest.approx([row[0].score for row in plain], abs=0.1)
        assert [row[0].score for row in narrow] != [row[0].score for row in plain]
        for row, source in zip(narrow, BATCH, strict=True):
            (alone,) = engine(source[source != 0][None], mode, replace(options, precision="int8"), "content")
            assert alone[0].tokens == row[0].tokens
            assert alone[0].score == pytest.approx(row[0].score, abs=1e-4)


def test_weights_are_made_when_asked_for() -> None:
    weights = Quantized(w=np.eye(3, dtype=np.float32))
    with pytest.raises(KeyError):
        weights["v"]
    assert (weights["w.int8"] == 127 * np.eye(3)).all()
