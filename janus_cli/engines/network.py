"""The layers of `core/model.py` as nodes of an ONNX graph. States are rows (N, D), so that products add their bias.

Dimension letters as in `core`; R rows of a decoder call, of which neighbouring ones share a sentence's source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial

import numpy as np

from janus_cli.core.knobs import Model
from janus_cli.core.symbols import PAD
from janus_cli.core.writing import Unwritten
from janus_cli.engines.graph import RUNTIME, Graph, Value
from janus_cli.engines.int8 import Blocks, Rows

IMPOSSIBLE = -1e30  # instead of -inf, of which a softmax over nothing else makes NaN
FEW = 1024  # a vocabulary that is searched at once
STRETCHES = range(48, 129)  # sizes of the parts of a larger one
Pair = tuple[Value, Value]  # keys and values, (B, H, K, D/H)


@dataclass(frozen=True)
class Source:
    """An encoded source: pooled states (B, D), mask bias (B, 1, 1, S) or None, each decoder layer's keys and values.

    count: B, (1,), or a number that the graph knows, which spares it nodes.
    """

    count: Value | int
    pooled: Value
    bias: Value | None
    pairs: tuple[Pair, ...]


class Network:
    """A model in a graph. shapes: of its weights and buffers, by their names. int8: of its products."""

    def __init__(self, graph: Graph, knobs: Model, shapes: Mapping[str, Sequence[int]], *, int8: bool = False) -> None:
        self.graph, self.knobs, self.shapes = graph, knobs, shapes
        self.products: Rows | Blocks | None = Rows(graph) if int8 else None

    @property
    def for_steps(self) -> Network:
        """The same model for one token of each row at a time."""
        steps = copy(self)
        steps.products = Blocks(self.graph) if self.products else None
        return steps

    def weight(self, name: str) -> Value:
        return self.graph.weight(name, self.shapes[name])

    def linear(self, x: Value, name: str) -> Value:
        """(N, D) -> (N, E)."""
        return self.product(x, f"{name}.weight", self.weight(f"{name}.bias"))

    def product(self, x: Value, name: str, bias: Value) -> Value:
        """(N, D) times the weight of this name (E, D), plus bias (E,) -> (N, E)."""
        if self.products is not None:
            return self.products(x, name, self.shapes[name], bias)
        return self.graph.op("Gemm", x, self.weight(name), bias, transB=1)

    def norm(self, x: Value, name: str) -> Value:
        given = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.graph.op("LayerNormalization", x, *given, axis=-1, epsilon=1e-5)

    def activation(self, x: Value) -> Value:
        if self.knobs.activation == "silu":
            return x * self.graph.op("Sigmoid", x)
        return self.graph.op({"relu": "Relu", "gelu": "Gelu"}[self.knobs.activation], x)

    def embed(self, tokens: Value, positions: Value, side: str, *, flat: bool = False) -> Value:
        """tokens (R, L), or (L,) if `flat`, and position vectors (L, D) or (R, L, D) -> rows (N, D)."""
        knobs, width = self.knobs, self.knobs.width
        table = "target_table" if side == "target" or knobs.tie == "all" else "source_table"
        x = self.weight(f"{table}.weight").gather(tokens)
        if knobs.embedding_scale:
            x = x * width**0.5
        if knobs.embedding == "concat":
            both = self.graph.concat(
                x, self.graph.op("Expand", positions, self.graph.op("Shape", x, result=np.int64)), axis=-1
            )
            x = self.linear(both.reshape(-1, 2 * width), f"{side}_map")
        else:
            x = x + positions if flat else (x + positions).reshape(-1, width)
        return self.norm(x, f"{side}_norm") if knobs.embedding_norm else x

    def attention(
        self, x: Value, name: str, keys_values: Pair, batch: Value | int, bias: Value | None, past: Pair | None = None
    ) -> tuple[Value, Sequence[Value]]:
        """x (N, D) of `batch` rows -> (N, D), and the keys and values that a cache keeps.

        keys_values: (B, K, D) of these slots, or (B, H, K, D/H) of a source. past: of earlier slots. bias: added to the
        scores. Keys and values are asked for in any case: without them, and without a bias, another kernel would round
        a single sentence in its own way.
        """
        q = self.linear(x, f"{name}.query").reshape(batch, -1, self.knobs.width)
        y, *kept = self.graph.op(
            "MultiHeadAttention", q, *keys_values, None, None, bias, *(past or ()),
            results=[q.type] * 3, domain=RUNTIME, num_heads=self.knobs.heads,
        )  # fmt: skip
        return self.linear(y.reshape(-1, self.knobs.width), f"{name}.out"), kept

    def keys_values(self, x: Value, name: str) -> Pair:
        """(N, D) -> keys and values, (N, D) each."""
        both = self.linear(x, f"{name}.key_value")
        keys, values = self.graph.op("Split", both, results=[x.type] * 2, axis=1, num_outputs=2)
        return keys, values

    def self_attention(
        self, x: Value, name: str, batch: Value | int, bias: Value | None, past: Pair | None = None,
        keys: Value | int | None = None,
    ) -> tuple[Value, Sequence[Value]]:  # fmt: skip
        """As `attention`. keys: so many slots are keys, by default all."""
        width = self.knobs.width
        some = x if keys is None else x.reshape(batch, -1, width).cut(0, keys, 1).reshape(-1, width)
        pair = [each.reshape(batch, -1, width) for each in self.keys_values(some, name)]
        return self.attention(x, name, (pair[0], pair[1]), batch, bias, past)

    def residual(self, x: Value, name: str, sublayer: Callable[[Value, str], Value]) -> Value:
        """x plus the sublayer's output, with the norm before the sublayer (pre) or after the sum (post)."""
        norm = f"{name}_norm"
        if self.knobs.norm == "pre":
            return x + sublayer(self.norm(x, norm), name)
        return self.norm(x + sublayer(x, name), norm)

    def feedforward(self, x: Value, name: str) -> Value:
        return self.linear(self.activation(self.linear(x, f"{name}.up")), f"{name}.down")

    def encode(self, source: Value, *, padded: bool) -> Source:
        """source (B, S) int64 -> Source. padded: whether there may be PAD, that is, whether there are several."""
        graph, knobs = self.graph, self.knobs
        batch, real, bias, wide = source.size(0) if padded else 1, None, None, None
        if knobs.source_suffix:
            source = self._with_suffix(source, padded=padded)
        length = source.size(1)
        if padded:
            real = (~source.equals(PAD)) | graph.range(length).equals(0)  # an all-padding source must not give NaN
            bias = graph.where(real, 0.0, IMPOSSIBLE).unsqueeze(1, 2)
            wide = bias.expand(batch, 1, length, length)
        x = self.embed(source, self.weight("source_positions").cut(0, length, 0), "source")
        for index in range(knobs.encoder_layers):
            x = self.residual(
                x, f"encoder.{index}.attention", lambda y, name: self.self_attention(y, name, batch, wide)[0]
            )
            x = self.residual(x, f"encoder.{index}.feedforward", self.feedforward)
        if knobs.norm == "pre":
            x = self.norm(x, "encoder_norm")
        pairs = tuple(self._for_cross(x, batch, f"decoder.{index}.cross") for index in range(knobs.decoder_layers))
        return Source(batch, self._pooled(x.reshape(batch, -1, knobs.width), real), bias, pairs)

    def _with_suffix(self, source: Value, *, padded: bool) -> Value:
        """The source with the id that `source_suffix` says after its EOS."""
        graph, batch = self.graph, source.size(0)
        more = graph.ints([[self.knobs.source_suffix]]).expand(batch, 1)
        if not padded:
            return graph.concat(source, more, axis=1)
        end = (~source.equals(PAD)).to(np.int64).over("Sum", 1, keep=True)
        return graph.concat(source, graph.ints([[PAD]]).expand(batch, 1), axis=1).put(end, more)

    def _for_cross(self, x: Value, batch: Value | int, name: str) -> Pair:
        """Keys and values of the source, (B, H, S, D/H) each."""
        heads, width = self.knobs.heads, self.knobs.width
        keys, values = (
            each.reshape(batch, -1, heads, width // heads).transpose(0, 2, 1, 3) for each in self.keys_values(x, name)
        )
        return keys, values

    def _pooled(self, states: Value, real: Value | None) -> Value:
        """The mean of the states (B, S, D) that are `real` (B, S) -> (B, D)."""
        if real is None:
            return states.over("Mean", 1)
        weights = real.to(np.float32).unsqueeze(2)
        return (states * weights).over("Sum", 1) / weights.over("Sum", 1)

    def decode(
        self, tokens: Value, positions: Value, source: Source, biases: Sequence[Value | None],
        pasts: Sequence[Value] = (), *, keys: Value | int | None = None, alone: bool = False,
    ) -> tuple[Value, list[Value]]:  # fmt: skip
        """tokens (R, L) at `positions`, vectors (L, D) or (R, L, D) -> states (N, D), and the `pasts` of the next call.

        alone: R is 1, and tokens (L,).
        biases: of each self-attention of a layer, (R or 1, 1, L, K). keys: so many slots are keys, by default all.
        pasts: keys and values of earlier calls, of each layer's self-attentions one after the other.
        """
        rows, sentences = 1 if alone else tokens.size(0), source.count
        x = self.embed(tokens, positions, "target", flat=alone)
        seen, kept, earlier = source.bias, list[Value](), zip(pasts[::2], pasts[1::2], strict=True)
        if seen is not None:
            seen = seen.expand(
                sentences, 1, x.size(0) // self.graph.shape(sentences), seen.size(3)
            )  # (B, 1, 1, S) -> (B, 1, N / B, S)

        def across(y: Value, name: str, pair: Pair) -> Value:
            return self.attention(y, name, pair, sentences, seen)[0]

        def among_themselves(y: Value, name: str, bias: Value | None) -> Value:
            found, new = self.self_attention(y, name, rows, bias, next(earlier, None), keys)
            kept.extend(new)
            return found

        for index, pair in enumerate(source.pairs):
            layer = f"decoder.{index}"
            x = self.residual(x, f"{layer}.attention", partial(among_themselves, bias=biases[0]))
            if self.knobs.causal_attention:
                x = self.residual(x, f"{layer}.causal", partial(among_themselves, bias=biases[1]))
            x = self.residual(x, f"{layer}.cross", partial(across, pair=pair))
            x = self.residual(x, f"{layer}.feedforward", self.feedforward)
        return (self.norm(x, "decoder_norm") if self.knobs.norm == "pre" else x), kept

    def at(self, positions: Value) -> Value:
        """The vectors of positions of the target, (…,) -> (…, D)."""
        return self.weight("target_positions").gather(positions)

    def to_the_left(self, places: Value) -> Value:
        """(L,) -> (1, 1, L, L), what slots at these places see in a causal self-attention, as a bias."""
        return self.graph.where(places.unsqueeze(0) <= places.unsqueeze(1), 0.0, IMPOSSIBLE).unsqueeze(0, 1)

    def logits(self, states: Value, never: Unwritten) -> Value:
        """(N, D) -> (N, V), without the tokens whose probability the others share."""
        return self.product(states, self.output, self.output_bias(never))

    def output_bias(self, never: Unwritten) -> Value:
        """(V,) what is added to logits."""
        bias = self._hiding(never.shared)
        return self.weight("output_bias") + bias if self.knobs.output_bias else bias

    def allowed(self, values: Value, never: Unwritten) -> Value:
        """Logits or log-probabilities (N, V) without the tokens that keep their probability."""
        return values + self._hiding(never.kept) if never.kept else values

    def best(self, values: Value) -> Value:
        """The place of the largest of each row, the first of equal ones: (N, V) -> (N, 1).

        Maxima of stretches tell where to look, which takes less time than one search.
        """
        graph, count = self.graph, self.vocabulary
        if count < FEW:
            found: Value = graph.op("ArgMax", values, result=np.int64, axis=1, keepdims=1)
            return found
        size = min(STRETCHES, key=lambda size: -count % size)
        if count % size:
            padding = graph.ints([0, 0, 0, -count % size])
            values = graph.op("Pad", values, padding, graph.floats(np.float32(2 * IMPOSSIBLE)))
        parts = values.reshape(-1, -(-count // size), size)
        part = graph.op("ArgMax", parts.over("Max", 2), result=np.int64, axis=1, keepdims=1)
        within = graph.op(
            "ArgMax", graph.op("GatherND", parts, part, batch_dims=1), result=np.int64, axis=1, keepdims=1
        )
        found = part * size + within
        return found

    def _hiding(self, tokens: Sequence[int]) -> Value:
        """(V,) what takes out these tokens when it is added."""
        bias = np.zeros(self.vocabulary, np.float32)
        bias[list(tokens)] = IMPOSSIBLE
        return self.graph.floats(bias)

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.shapes[self.output][0]

    @property
    def output(self) -> str:
        """The name of the output table, (V, D)."""
        return "output_table.weight" if self.knobs.tie == "none" else "target_table.weight"

    def length_logits(self, source: Source) -> Value:
        """(B, max_length)."""
        return self.graph.op("Gemm", source.pooled, self.weight("length_table"), transB=1)
