"""The encoder-decoder and its layers. It knows streams, but neither objectives nor decoding modes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_cli.core.batch import PAD
from janus_cli.core.cache import Cache
from janus_cli.core.draft_head import DraftHead
from janus_cli.core.fast import Linear, Packed, dropout, packed, product, scaled_dot_products
from janus_cli.core.knobs import Model
from janus_cli.core.shapes import marian_positions
from janus_cli.core.stream import Stream

KeysValues = tuple[Tensor, Tensor]  # each (B, H, K, D/H)
Sublayer = Callable[[Tensor], Tensor]  # (B, L, D) -> (B, L, D)
Append = Callable[[int, Tensor, Tensor], KeysValues]


class Attention(nn.Module):
    """Multi-head attention. Keys and values are computed separately from the queries, so that they can be cached."""

    def __init__(self, knobs: Model) -> None:
        super().__init__()
        self.heads, self.dropout = knobs.heads, knobs.attention_dropout
        self.query = Linear(knobs.width, knobs.width)
        self.key_value = Linear(knobs.width, 2 * knobs.width)
        self.out = Linear(knobs.width, knobs.width)

    def keys_values(self, x: Tensor) -> KeysValues:
        """x (B, K, D) -> keys and values, each (B, H, K, D/H)."""
        batch, slots, width = x.shape
        both = self.key_value(x).view(batch, slots, 2, self.heads, width // self.heads)
        keys, values = both.permute(2, 0, 3, 1, 4)  # (B, K, 2, H, D/H) -> 2 x (B, H, K, D/H)
        return keys, values

    def forward(self, x: Tensor, keys_values: KeysValues, bias: Any) -> Tensor:
        """x (F*B, L, D), keys and values of B rows -> (F*B, L, D).

        F neighbouring rows of x share one row of keys and values: a sentence's candidates or beams share its source.
        bias: `score_bias` of a mask broadcastable to (B, H, F*L, K); or a BlockMask of FlexAttention.
        """
        keys, values = keys_values
        q = self.query(x).view(keys.shape[0], -1, self.heads, keys.shape[-1]).transpose(1, 2)
        # (F*B, L, D) -> (B, H, F*L, D/H)
        if bias is None or isinstance(bias, Tensor):
            y = scaled_dot_products(q, keys, values, bias, self.dropout if self.training else 0.0)
        else:
            y = flex_attention(q.device.type)(q, keys, values, block_mask=bias)
        return self.out(y.transpose(1, 2).reshape(x.shape))  # (B, H, F*L, D/H) -> (F*B, L, D)


@cache
def flex_attention(device: str) -> Callable[..., Any]:
    """FlexAttention: its kernel on a GPU, compiled at the first call; elsewhere its definition in plain torch,
    which has no gradient."""
    from torch.nn.attention.flex_attention import flex_attention

    plain: Callable[..., Any] = flex_attention
    return torch.compile(plain, dynamic=True) if device == "cuda" else plain


def block_mask(stream: Stream, *, causal: bool) -> Any:
    """`attend` or `causal` of a stream as FlexAttention takes it."""
    from torch.nn.attention.flex_attention import create_block_mask

    batch, slots = stream.tokens.shape
    rule, device = stream.mask_mod(causal=causal), str(stream.tokens.device)
    return create_block_mask(rule, batch, None, slots, stream.keys, device=device)


def score_bias(attend: Tensor, dtype: torch.dtype) -> Tensor | None:
    """A boolean mask (True = may attend) as an additive bias on attention scores, 0 or -inf; once for all layers.

    None if nothing is masked; checked on a CPU only, because the check would make the host wait for a GPU.
    """
    if attend.device.type == "cpu" and bool(attend.all()):
        return None
    return torch.zeros(attend.shape, dtype=dtype, device=attend.device).masked_fill_(~attend, -inf)


class FeedForward(nn.Module):
    """Two linear maps around an activation."""

    def __init__(self, knobs: Model) -> None:
        super().__init__()
        self.up = Linear(knobs.width, knobs.feedforward)
        self.down = Linear(knobs.feedforward, knobs.width)
        self.activation = {"relu": torch.relu_, "gelu": F.gelu, "silu": F.silu}[knobs.activation]
        self.dropout = knobs.activation_dropout

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.down(dropout(self.activation(self.up(x)), self.dropout, self.training))


class Layer(nn.Module):
    """Self-attention and feed-forward; in a decoder, attention to the source in between.

    With `causal_attention`, a decoder has a second self-attention, to the left only (Huang 2022).
    """

    def __init__(self, knobs: Model, *, decoder: bool) -> None:
        super().__init__()
        self.pre, self.dropout = knobs.norm == "pre", knobs.dropout
        self.attention, self.attention_norm = Attention(knobs), nn.LayerNorm(knobs.width)
        if decoder and knobs.causal_attention:
            self.causal, self.causal_norm = Attention(knobs), nn.LayerNorm(knobs.width)
        if decoder:
            self.cross, self.cross_norm = Attention(knobs), nn.LayerNorm(knobs.width)
        self.feedforward, self.feedforward_norm = FeedForward(knobs), nn.LayerNorm(knobs.width)

    def forward(
        self, x: Tensor, keys: int, biases: Sequence[Any], append: Append | None = None,
        source: KeysValues | None = None, source_bias: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """x (B, L, D), of which the first `keys` slots can be attended to -> (B, L, D).

        biases: one for each self-attention. append: adds keys and values of new slots to those of earlier calls, for
        the first (0) or second (1) self-attention. source: this layer's keys and values of the source.
        """

        def attend(attention: Attention, index: int) -> Sublayer:
            def sublayer(y: Tensor) -> Tensor:
                keys_values = attention.keys_values(y[:, :keys])
                if append is not None:
                    keys_values = append(index, *keys_values)
                return attention(y, keys_values, biases[index])

            return sublayer

        x = self._residual(x, self.attention_norm, attend(self.attention, 0))
        if len(biases) > 1:
            x = self._residual(x, self.causal_norm, attend(self.causal, 1))
        if source is not None:
            x = self._residual(x, self.cross_norm, lambda y: self.cross(y, source, source_bias))
        return self._residual(x, self.feedforward_norm, self.feedforward)

    def _residual(self, x: Tensor, norm: nn.Module, sublayer: Sublayer) -> Tensor:
        """x plus the sublayer's output, with the norm before the sublayer (pre) or after the sum (post)."""
        if self.pre:
            return x + dropout(sublayer(norm(x)), self.dropout, self.training)
        return norm(x + dropout(sublayer(x), self.dropout, self.training))


def sinusoids(count: int, width: int, kind: str = "sinusoidal") -> Tensor:
    """(count, D) fixed position vectors: sines in the first half, cosines in the second (Vaswani 2017, section 3.5).

    kind: `marian` has the rates of the paper, 10000 ** (-2 i / D); `sinusoidal` those of tensor2tensor and fairseq.
    """
    if kind == "marian":
        return torch.tensor(marian_positions(count, width), dtype=torch.float32)
    half = (width + 1) // 2
    rate = torch.exp(torch.arange(half) * (-torch.log(torch.tensor(10_000.0)) / max(1, half - 1)))
    angle = torch.arange(count)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]


@dataclass(frozen=True)
class Memory:
    """An encoded source.

    states: (B, S, D). real: (B, S) bool, False for padding, except that the first place is always True.
    bias: `score_bias` of `real`, (B, 1, 1, S) or None. keys_values: each decoder layer's keys and values of the states.
    """

    states: Tensor
    real: Tensor
    bias: Tensor | None
    keys_values: tuple[KeysValues, ...]

    def select(self, rows: Tensor) -> Memory:
        """The memory of these sentences, in this order."""
        chosen = tuple((keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in self.keys_values)
        bias = None if self.bias is None else self.bias[rows]
        return replace(self, states=self.states[rows], real=self.real[rows], bias=bias, keys_values=chosen)


class Transformer(nn.Module):
    """Encoder, decoder, output table and, if the objective predicts lengths, a length head.

    One decoder forward pass, over a `Stream`, serves every objective.
    """

    def __init__(self, knobs: Model, source_vocabulary: int, target_vocabulary: int, *, length_head: bool) -> None:
        super().__init__()
        self.knobs = knobs
        width = knobs.width
        self.target_table = nn.Embedding(target_vocabulary, width, padding_idx=PAD)
        self.source_table = (
            self.target_table if knobs.tie == "all" else nn.Embedding(source_vocabulary, width, padding_idx=PAD)
        )
        self.output_table = None if knobs.tie != "none" else nn.Linear(width, target_vocabulary, bias=False)
        if knobs.positions == "learned":
            self.source_positions = nn.Parameter(torch.empty(knobs.max_length, width))
            self.target_positions = nn.Parameter(torch.empty(knobs.max_length, width))
        else:
            self.register_buffer("source_positions", torch.empty(knobs.max_length, width), persistent=False)
            self.register_buffer("target_positions", torch.empty(knobs.max_length, width), persistent=False)
        # With embedding `concat`, a linear map takes token and position embeddings side by side (Huang 2022).
        maps = [Linear(2 * width, width) if knobs.embedding == "concat" else None for _ in range(2)]
        self.source_map, self.target_map = maps
        norms = [nn.LayerNorm(width) if knobs.embedding_norm else nn.Identity() for _ in range(2)]
        self.source_norm, self.target_norm = norms
        self.encoder = nn.ModuleList(Layer(knobs, decoder=False) for _ in range(knobs.encoder_layers))
        self.decoder = nn.ModuleList(Layer(knobs, decoder=True) for _ in range(knobs.decoder_layers))
        ends = [nn.LayerNorm(width) if knobs.norm == "pre" else nn.Identity() for _ in range(2)]
        self.encoder_norm, self.decoder_norm = ends
        self.output_bias = (
            nn.Parameter(torch.empty(target_vocabulary), requires_grad=False) if knobs.output_bias else None
        )
        self.length_table = nn.Parameter(torch.empty(knobs.max_length, width)) if length_head else None
        self.packed_output: Packed | None = None
        self.draft_head: DraftHead | None = None
        self.reset()

    def reset(self) -> None:
        """Fresh weights from torch's global generator, as `knobs.init` says."""
        bert = self.knobs.init == "bert"
        embedding_std = 0.02 if bert else self.knobs.width**-0.5
        for name, weight in self.named_parameters():
            if name.endswith(("_table", "_table.weight", "_positions")):
                nn.init.normal_(weight, std=embedding_std)
            elif weight.dim() > 1:
                nn.init.normal_(weight, std=0.02) if bert else nn.init.xavier_uniform_(weight)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
            else:
                nn.init.ones_(weight)  # layer norms
        with torch.no_grad():
            for table in (self.source_table, self.target_table):
                table.weight[PAD] = 0.0
            self._fill_constants()

    def _fill_constants(self) -> None:
        for buffer in self.buffers():
            buffer.copy_(sinusoids(self.knobs.max_length, self.knobs.width, self.knobs.positions))

    def weights(self) -> dict[str, Tensor]:
        """All weights by name; a tied table appears once."""
        return {name: weight.detach() for name, weight in self.named_parameters()}

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copies weights of the same names and shapes; also completes a model that was built on the meta device."""
        self.unpack()
        for name, weight in self.named_parameters():
            weight.copy_(weights[name])
        self._fill_constants()

    def pack(self) -> None:
        """Packs the weights of all products for a CPU (see `fast.packed`); they must not change until `unpack`."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.packed = packed(module.weight)
        self.packed_output = packed(self.output_weight)

    def unpack(self) -> None:
        """Drops the packed copies; the weights may change again."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.packed = None
        self.packed_output = None

    def train(self, mode: bool = True) -> Transformer:
        """As `nn.Module.train`; training mode also unpacks the weights."""
        if mode:
            self.unpack()
        return super().train(mode)

    def _embed(
        self, tokens: Tensor, table: nn.Embedding, positions: Tensor, side_by_side: Linear | None, norm: nn.Module
    ) -> Tensor:
        x = table(tokens)
        if self.knobs.embedding_scale:
            x = x * self.knobs.width**0.5
        if side_by_side is None:
            x = x + positions
        else:
            both = torch.cat([x, positions.expand_as(x)], dim=-1)
            x = side_by_side(both).to(x.dtype)  # the residual stream keeps its precision under autocast
        return dropout(norm(x), self.knobs.dropout, self.training)

    def encode(self, source: Tensor, real: Tensor) -> Memory:
        """source (B, S) ids, real (B, S) bool -> Memory. S is at most `max_length`, with the suffix."""
        if self.knobs.source_suffix:
            source = F.pad(source, (0, 1), value=PAD)
            source = source.scatter(1, real.sum(1, keepdim=True), self.knobs.source_suffix)
            real = F.pad(real, (1, 0), value=True)
        positions = self.source_positions[: source.shape[1]]
        x = self._embed(source, self.source_table, positions, self.source_map, self.source_norm)
        seen = real.clone()
        seen[:, 0] = True  # an all-padding source must not give NaN
        bias = score_bias(seen[:, None, None, :], x.dtype)  # (B, S) -> (B, 1, 1, S)
        for layer in self.encoder:
            x = layer(x, x.shape[1], [bias])
        x = self.encoder_norm(x)
        crossing = (layer.cross for layer in self.decoder if isinstance(layer, Layer))
        return Memory(x, seen, bias, tuple(cross.keys_values(x) for cross in crossing))

    def decode(self, stream: Stream, memory: Memory, cache: Cache | None = None) -> Tensor:
        """stream of F*B rows, memory of B -> states (F*B, L, D). With a cache, they also attend to its slots."""
        positions = F.embedding(stream.positions, self.target_positions)
        x = self._embed(stream.tokens, self.target_table, positions, self.target_map, self.target_norm)
        biases = self._biases(stream, cache, x.dtype)
        for index, (layer, source) in enumerate(zip(self.decoder, memory.keys_values, strict=True)):
            append = None if cache is None else partial(cache.append, index)
            x = layer(x, stream.keys, biases, append, source, memory.bias)
        return self.decoder_norm(x)

    def _biases(self, stream: Stream, cache: Cache | None, dtype: torch.dtype) -> list[Any]:
        """The bias or BlockMask of each self-attention of a layer, as `Attention` takes it."""
        causal = self.knobs.causal_attention
        if cache is not None:
            attends = cache.admit(stream)
        elif self.knobs.attention == "flex":
            return [block_mask(stream, causal=to_the_left) for to_the_left in (False, True)[: 1 + causal]]
        else:
            attends = [stream.attend, stream.causal] if causal else [stream.attend]
        return [score_bias(attend[:, None], dtype) for attend in attends]  # (B, L, K) -> (B, 1, L, K)

    def new_cache(self, batch: int, slots: int, *, fixed: bool = False) -> Cache:
        """A cache with room for `slots` key slots in each of `batch` rows."""
        return Cache(self.target_table.weight, self.knobs, batch, slots, fixed=fixed)

    @property
    def output_weight(self) -> Tensor:
        """(V, D), the output table, which turns states into logits."""
        return self.target_table.weight if self.output_table is None else self.output_table.weight

    def logits(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return product(states, self.output_weight, self.packed_output, self.output_bias)

    def length_logits(self, memory: Memory) -> Tensor:
        """(B, max_length): class n stands for n target tokens without BOS and EOS.

        Mean-pooled encoder states times a table of length embeddings (JANUS, released code).
        """
        if self.length_table is None:
            raise RuntimeError("this model has no length head")
        real = memory.real[:, :, None].to(memory.states.dtype)
        pooled = (memory.states * real).sum(1) / real.sum(1)
        return F.linear(pooled, self.length_table)  # (B, D) -> (B, max_length)
