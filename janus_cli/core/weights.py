"""A model's weights as they are stored. Torch is imported only when they become a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from janus_cli.core.knobs import Model, Precision

if TYPE_CHECKING:
    import torch

    from janus_cli.core.model import Transformer


@dataclass(frozen=True)
class Weights:
    """knobs and vocabularies (source, target) of a model; its weights by name, and those of its draft head, if any.

    Both are arrays of numpy in float32.
    """

    knobs: Model
    vocabularies: tuple[int, int]
    arrays: Mapping[str, Any]
    head: Mapping[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> Any:
        """(V, D), the output table."""
        return self.arrays.get("output_table.weight", self.arrays["target_table.weight"])

    def model(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> Transformer:
        """A model of them, in eval mode. On a CPU in float32 it has no copies: neither may change."""
        import torch

        from janus_cli.core.draft_head import DraftHead
        from janus_cli.core.model import Transformer

        # Not on the meta device: drawing weights that are overwritten takes 0.1 s, the meta device's imports 1.9 s.
        with torch.random.fork_rng(devices=[]):
            model = Transformer(self.knobs, *self.vocabularies, length_head="length_table" in self.arrays)
        for name, weight in model.named_parameters():
            weight.data = torch.from_numpy(self.arrays[name])
        if self.head:
            model.draft_head = DraftHead(**{name: torch.from_numpy(each) for name, each in self.head.items()})
        return model.to(device, torch.bfloat16 if precision == "bf16" else torch.float32).eval()
