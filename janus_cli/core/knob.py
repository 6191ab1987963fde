"""What a knob is: a field of a plain dataclass, with what a user needs to know about it beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, get_type_hints

SOURCES = {
    "[J]": "JANUS, paper and released code (Liang et al., EMNLP 2022)",
    "[C]": "Mask-Predict, CMLM (Ghazvininejad et al., EMNLP 2019)",
    "[RD]": "R-Drop (Liang et al., NeurIPS 2021)",
    "[V]": "the Transformer (Vaswani et al., NeurIPS 2017)",
    "[X]": "XLNet (Yang et al., NeurIPS 2019)",
    "[M]": "MPNet (Song et al., NeurIPS 2020)",
    "[P]": "ProphetNet (Qi et al., Findings of EMNLP 2020)",
    "[B]": "BANG (Qi et al., ICML 2021)",
    "[CC]": "CMLMC (Huang et al., ICLR 2022)",
    "[CE]": "CeMAT (Li et al., ACL 2022)",
    "[BA]": "BART (Lewis et al., ACL 2020)",
    "[G]": "GLAT (Qian et al., ACL 2021)",
    "[N]": "blocking repeated n-grams (Paulus et al., ICLR 2018), as in fairseq",
    "[K]": "top-k sampling (Fan et al., ACL 2018)",
    "[T]": "nucleus sampling, top-p (Holtzman et al., ICLR 2020)",
    "[D]": "diverse beam search (Vijayakumar et al., AAAI 2018)",
    "[H]": "measured here (benchmarks/)",
}


@dataclass(frozen=True)
class Knob:
    """Marks a field as a knob: what it does, where its default comes from (a key of SOURCES), its bounds.

    modes: for a knob of decoding, the modes that read it; empty if all do.
    off: for a knob of decoding, that its default turns something off, which every mode can do.
    only_with, not_with: for a knob of decoding, another one; it is read only if that one is read and has another value
    than its default, or only if not.
    flag: for a knob of decoding, its option of `janus decode`; "": --name-with-dashes, None: it has no option.
    """

    about: str
    source: str = ""
    _: KW_ONLY
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    modes: tuple[str, ...] = ()
    off: bool = False
    only_with: str = ""
    not_with: str = ""
    flag: str | None = ""

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds that are set, by name."""
        return {name: bound for name in ("ge", "gt", "le", "lt") if (bound := getattr(self, name)) is not None}

    def __get_pydantic_core_schema__(self, kind: Any, schema_of: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """How a marker tells pydantic its bounds; pydantic itself is not needed here."""
        schema = schema_of(kind)
        if schema["type"] == "nullable":  # bounds are for the value, if there is one
            return schema | {"schema": schema["schema"] | self.bounds}
        return schema | self.bounds


def knobs(section: type) -> dict[str, Knob]:
    """The markers of a section's fields, by field."""
    hints = get_type_hints(section, include_extras=True)
    markers = {field.name: getattr(hints[field.name], "__metadata__", ()) for field in fields(section)}
    return {name: marker for name, found in markers.items() for marker in found if isinstance(marker, Knob)}
