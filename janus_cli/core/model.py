"""The encoder-decoder. It knows streams, but neither objectives nor decoding modes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_cli.core.batch import PAD
from janus_cli.core.knobs import Model
from janus_cli.core.layers import (
    DecoderLayer,
    EncoderLayer,
    Keep,
    KeysValues,
    LayerNorm,
    Linear,
    Look,
    Packed,
    Past,
    dropout,
    packed,
    product,
    sight,
    sinusoids,
)
from janus_cli.core.stream import NEVER, Stream, leftward, visible

if TYPE_CHECKING:
    from janus_cli.core.recorded import Recordings


@dataclass(frozen=True)
class Memory:
    """An encoded source.

    states: (B, S, D). real: (B, S) bool. attend: the same as `layers.sight` has it, (B, 1, 1, S) or None.
    kept: each decoder layer's keys and values of it.
    """

    states: Tensor
    real: Tensor
    attend: Tensor | None
    kept: tuple[KeysValues, ...]

    def select(self, rows: Tensor) -> Memory:
        """These sentences, in this order."""
        kept = tuple((keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in self.kept)
        attend = None if self.attend is None else self.attend[rows]
        return replace(self, states=self.states[rows], real=self.real[rows], attend=attend, kept=kept)


class Cache:
    """What a decoder call leaves for the next: keys, values, birth and death of the key slots so far, and, where the
    layers have a causal self-attention too, their positions.

    at: where the next key slots go, for all rows or (R,) for each. Setting it back takes slots back: their place is
    written again, and until then their birth lies in the future of everything that is decoded there.
    fixed: all slots are always looked at, so that shapes stay as they are.
    """

    def __init__(self, like: Tensor, knobs: Model, rows: int, slots: int, *, fixed: bool = False) -> None:
        def pasts() -> list[Past]:
            return [Past(like, rows, knobs.heads, slots) for _ in range(knobs.decoder_layers)]

        self.pasts = [pasts(), pasts()] if knobs.causal_attention else [pasts()]  # of each self-attention and layer
        self.birth = torch.full((rows, slots), NEVER, device=like.device)
        self.death = torch.full((rows, slots), NEVER, device=like.device)
        self.positions = torch.zeros((rows, slots), dtype=torch.int64, device=like.device)
        self.fixed = fixed
        self.at: int | Tensor = 0
        self.end = 0  # slots from here on were not written in any row

    def select(self, rows: Tensor) -> None:
        """Keeps these rows, in this order (a row may be taken several times)."""
        for past in (past for pasts in self.pasts for past in pasts):
            past.select(rows, self.end)
        self.birth, self.death = self.birth[rows], self.death[rows]
        if len(self.pasts) > 1:
            self.positions = self.positions[rows]
        if not isinstance(self.at, int):
            self.at = self.at[rows]

    def reorder(self, rows: Tensor) -> None:
        """As `select` with as many rows as there are, all of the same times, without moving the buffers."""
        for past in (past for pasts in self.pasts for past in pasts):
            past.keys.copy_(past.keys.index_select(0, rows))
            past.values.copy_(past.values.index_select(0, rows))

    def admit(self, stream: Stream) -> list[tuple[Tensor, list[Keep]]]:
        """Notes the new key slots. For each self-attention: who attends (B, L, end), and every layer's `Keep`.

        Who attends follows the rule of `core/stream.py` over all slots so far, as in one call with all of them.
        """
        at, count = self.at, stream.keys
        notes = [(self.birth, stream.birth), (self.death, stream.death)]
        if len(self.pasts) > 1:
            notes.append((self.positions, stream.positions))
        if isinstance(at, int):
            end = at + count
            for known, fresh in notes:
                known[:, at:end] = fresh[:, :count]
        else:
            end = self.birth.shape[1] if self.fixed else int(at.max()) + count
            places = at[:, None] + torch.arange(count, device=at.device)
            for known, fresh in notes:
                known.scatter_(1, places, fresh[:, :count])
        self.at, self.end = at + count, max(self.end, end)
        attends = [visible(stream.time, self.birth[:, :end], self.death[:, :end])]
        if len(self.pasts) > 1:
            attends.append(attends[0] & leftward(stream.positions, self.positions[:, :end]))
        keeps: list[list[Keep]] = [[partial(past.put, at, end) for past in pasts] for pasts in self.pasts]
        return list(zip(attends, keeps, strict=True))


class Transformer(nn.Module):
    """Encoder, decoder, output table and, where a model generates non-autoregressively, a length head.

    One decoder forward serves every objective: what it reads is a `Stream`.
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
        # Where tokens and positions are not added up, a linear map takes them side by side (Huang 2022).
        maps = [Linear(2 * width, width) if knobs.embedding == "concat" else None for _ in range(2)]
        self.source_map, self.target_map = maps
        norms = [LayerNorm(width) if knobs.embedding_norm else nn.Identity() for _ in range(2)]
        self.source_norm, self.target_norm = norms
        self.encoder = nn.ModuleList(EncoderLayer(knobs) for _ in range(knobs.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(knobs) for _ in range(knobs.decoder_layers))
        ends = [LayerNorm(width) if knobs.norm == "pre" else nn.Identity() for _ in range(2)]
        self.encoder_norm, self.decoder_norm = ends
        self.length_table = nn.Parameter(torch.empty(knobs.max_length, width)) if length_head else None
        self.packed_output: Packed | None = None
        self.recordings: Recordings | None = None
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
            buffer.copy_(sinusoids(*buffer.shape))

    def weights(self) -> dict[str, Tensor]:
        """Every weight by name, tied tables once."""
        return {name: weight.detach() for name, weight in self.named_parameters()}

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Takes over weights of the same names and shapes; also makes a model built on the meta device whole."""
        self.unpack()
        for name, weight in self.named_parameters():
            weight.copy_(weights[name])
        self._fill_constants()

    def pack(self) -> Transformer:
        """For generating: lays the weights out (see `layers.packed`), records what a GPU does (see `core/recorded.py`).

        Until `unpack`, the weights must not change.
        """
        from janus_cli.core.recorded import Recordings  # imports this module's users

        self.eval()
        self.unpack()
        self.recordings = Recordings(self) if self.output_weight.device.type == "cuda" else None
        for module in self.modules():
            if isinstance(module, Linear):
                module.packed = packed(module.weight)
        self.packed_output = packed(self.output_weight)
        return self

    def unpack(self) -> None:
        """Back to the plain weights, which may change."""
        if self.recordings is not None:
            self.recordings.forget()
        self.packed_output = self.recordings = None
        for module in self.modules():
            if isinstance(module, Linear):
                module.packed = None

    def train(self, mode: bool = True) -> Transformer:
        """As of any module; training takes the weights out of their packing."""
        if mode:
            self.unpack()
        return super().train(mode)

    def _embed(
        self, tokens: Tensor, table: nn.Embedding, positions: Tensor, together: Linear | None, norm: nn.Module
    ) -> Tensor:
        x = table(tokens)
        if self.knobs.embedding_scale:
            x = x * self.knobs.width**0.5
        if together is None:
            x = x + positions
        else:
            both = torch.cat([x, positions.expand_as(x)], dim=-1)
            x = together(both).to(x.dtype)  # what the layers add to keeps its precision, also under autocast
        return dropout(norm(x), self.knobs.dropout, self.training)

    def encode(self, source: Tensor, real: Tensor) -> Memory:
        """source (B, S) ids, real (B, S) bool -> Memory. S is at most `max_length`."""
        positions = self.source_positions[: source.shape[1]]
        x = self._embed(source, self.source_table, positions, self.source_map, self.source_norm)
        seen = real.clone()
        seen[:, 0] = True  # a source of nothing but padding must not give NaN
        attend = sight(seen[:, None, None, :], x.dtype)  # (B, S) -> (B, 1, 1, S)
        for layer in self.encoder:
            x = layer(x, attend)
        x = self.encoder_norm(x)
        crossing = (layer.cross for layer in self.decoder if isinstance(layer, DecoderLayer))
        return Memory(x, seen, attend, tuple(cross.keys_values(x) for cross in crossing))

    def decode(self, stream: Stream, memory: Memory, cache: Cache | None = None) -> Tensor:
        """stream of F*B rows, memory of B -> states (F*B, L, D). With a cache, the slots so far are seen as well."""
        positions = F.embedding(stream.positions, self.target_positions)
        x = self._embed(stream.tokens, self.target_table, positions, self.target_map, self.target_norm)
        looks = zip(*self._looks(stream, cache, x.dtype), strict=True)  # of each self-attention -> of each layer
        for layer, source, own in zip(self.decoder, memory.kept, looks, strict=True):
            x = layer(x, stream.keys, own, source, memory.attend)
        return self.decoder_norm(x)

    def _looks(self, stream: Stream, cache: Cache | None, dtype: torch.dtype) -> list[list[Look]]:
        """For each self-attention and layer, how the slots look at each other."""
        if cache is not None:
            found = [(sight(attend[:, None], dtype), keeps) for attend, keeps in cache.admit(stream)]
            return [[Look(attend, keep) for keep in keeps] for attend, keeps in found]  # (B, L, K) -> (B, 1, L, K)
        causal, layers = self.knobs.causal_attention, len(self.decoder)
        if self.knobs.attention == "flex":
            mods = [stream.mask_mod, stream.causal_mod] if causal else [stream.mask_mod]
            return [[Look(self._block_mask(stream, mod), None)] * layers for mod in mods]
        attends = [stream.attend, stream.causal] if causal else [stream.attend]
        return [[Look(sight(attend[:, None], dtype), None)] * layers for attend in attends]

    @staticmethod
    def _block_mask(stream: Stream, mask_mod: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        rows, slots = stream.tokens.shape
        return create_block_mask(mask_mod, rows, None, slots, stream.keys, device=str(stream.tokens.device))

    def new_cache(self, rows: int, slots: int, *, fixed: bool = False) -> Cache:
        """Room for the keys and values of `slots` key slots in each of `rows` rows."""
        return Cache(self.target_table.weight, self.knobs, rows, slots, fixed=fixed)

    @property
    def output_weight(self) -> Tensor:
        """(V, D), the table that turns states into logits."""
        return self.target_table.weight if self.output_table is None else self.output_table.weight

    def logits(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return product(states, self.output_weight, self.packed_output)

    def length_logits(self, memory: Memory) -> Tensor:
        """(B, max_length): class n stands for n target tokens without BOS and EOS.

        Mean-pooled encoder states times a table of length embeddings (JANUS, released code).
        """
        if self.length_table is None:
            raise RuntimeError("this model has no length head")
        real = memory.real[:, :, None].to(memory.states.dtype)
        pooled = (memory.states * real).sum(1) / real.sum(1)
        return F.linear(pooled, self.length_table)  # (B, D) -> (B, max_length)
