"""Memory of a training step by size of the vocabulary: the loss in chunks against the plain one that holds all logits.

    python benchmarks/loss_memory.py
    python benchmarks/loss_memory.py --vocabulary 8000 --vocabulary 64000 --plot loss_memory.svg

Weights, their gradient and the optimiser's state grow with the vocabulary whatever the loss does. So two things are
measured, each in a fresh process: the loss alone, forward and backward, from given states and table (the most memory
that the process held, less what it held before), and a whole step of `janus train`. Beside them, what must grow: one
gradient of the table, and what one copy of the batch's logits would take.

The plain versions make the logits of all tokens at once and leave the gradient to autograd.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shared
import torch
import torch.nn.functional as F
from torch import Tensor

from janus_cli import console
from janus_cli.core import losses
from janus_cli.core.aux_loss import AUX, PAIRS, AuxLoss, aux_loss
from janus_cli.core.losses import cross_entropy
from janus_cli.core.objectives import janus
from janus_cli.device import keep_freed_memory
from janus_cli.errors import UsageError, require
from janus_cli.files import write_atomically
from janus_cli.lab import plots
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.system import forget_peak, peak_bytes
from janus_cli.training.model import build_model
from janus_cli.training.trainer import Micro, Trainer, Window, plan_of
from janus_cli.world import autocast, start_world

VOCABULARIES = (8000, 32_000, 64_000)
WAYS = ("in chunks", "plain")
COPIES = {"ar": 5, "janus": 7}  # of the logits: what the plain version holds at its peak, generously; to leave rows out
NO_KL_TO_AR_CUT = "objective.kl_to_ar=1"  # the plain version has no such knob


@dataclass(frozen=True)
class Case:
    """One row. tokens: target tokens of the batch, EOS counted; words: of a sentence."""

    recipe: Recipe
    way: str
    vocabulary: int
    rows: int
    words: int

    def batch(self) -> Micro:
        made = shared.made_up_batch(self.rows, self.words, self.vocabulary)
        return Micro(made, plan_of(made, self.recipe, 0), 1.0)

    @property
    def asked(self) -> tuple[int, int]:
        """Target tokens and hidden tokens."""
        counts = self.batch().plan.counts
        return counts["tokens"], counts.get("hidden", 0)

    @property
    def logits(self) -> int:
        """Bytes of one copy in float32: AR's of every token, NAR's and AUX's of every hidden one."""
        tokens, hidden = self.asked
        return 4 * self.vocabulary * (tokens + 2 * hidden)


def plain_cross_entropy(
    states: Tensor, weight: Tensor, gold: Tensor, smoothing: float, bias: Tensor | None = None
) -> Tensor:
    """As `core.losses.cross_entropy`."""
    return F.cross_entropy(F.linear(states, weight, bias).float(), gold, reduction="sum", label_smoothing=smoothing)


def plain_aux_loss(
    ar: Tensor, nar: Tensor, aux: Tensor, weight: Tensor, gold: Tensor, smoothing: float,
    coefficients: AuxLoss[float], kl_to_ar: float = 1.0, temperature: float = 1.0, sure: bool = False,
    bias: Tensor | None = None,
) -> AuxLoss[Tensor]:  # fmt: skip
    """As `core.aux_loss.aux_loss`, where kl_to_ar is 1."""
    assert kl_to_ar == 1.0
    logits = [F.linear(states, weight, bias).float() for states in (ar, nar, aux)]
    ce = [F.cross_entropy(each, gold, reduction="sum", label_smoothing=smoothing) for each in logits]
    logs = [(each / temperature).log_softmax(-1) for each in logits]
    each_kl = [0.5 * ((logs[i].exp() - logs[j].exp()) * (logs[i] - logs[j])).sum(1) for i, j in PAIRS]
    weight_of = logits[AUX].detach().softmax(1).gather(1, gold[:, None])[:, 0] if sure else torch.ones_like(each_kl[0])
    return AuxLoss(*ce, *(temperature**2 * (weight_of * kl).sum() for kl in each_kl))


def loss(way: str, states: Sequence[Tensor], weight: Tensor, gold: Tensor, smoothing: float) -> Tensor:
    """The loss of an objective as it makes it. states: (N, D) of all AR tokens and, for JANUS, of H hidden ones of NAR
    and of AUX; the first H tokens are those hidden. weight (V, D), gold (N,)."""
    ce, aux = (cross_entropy, aux_loss) if way == WAYS[0] else (plain_cross_entropy, plain_aux_loss)
    if len(states) == 1:
        return ce(states[0], weight, gold, smoothing)
    left_to_right, nar, aux_states = states
    hidden = len(nar)
    factors = AuxLoss(1.0, 0.5, 0.5, 3.0, 1.0, 1.0)
    rest = ce(left_to_right[hidden:], weight, gold[hidden:], smoothing)
    tied = aux(left_to_right[:hidden], nar, aux_states, weight, gold[:hidden], smoothing, factors)
    return rest + sum(factor * total for factor, total in zip(factors, tied, strict=True))


def made_up_states(case: Case, tokens: int, hidden: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """States, table and words."""
    torch.manual_seed(case.recipe.seed)
    width = case.recipe.model.width
    states = [torch.randn(count, width).requires_grad_() for count in (tokens, hidden, hidden) if count]
    weight = torch.randn(case.vocabulary, width).mul_(width**-0.5).requires_grad_()
    return states, weight, torch.randint(case.vocabulary, (tokens,))


def of_the_loss(case: Case) -> int:
    """Bytes of memory, in this process, that the loss alone takes on top of states and table."""
    tokens, hidden = case.asked
    states, weight, gold = made_up_states(case, tokens, hidden)

    def once(some: Sequence[Tensor], words: Tensor) -> None:
        with autocast(case.recipe.training.precision, weight.device):
            total = loss(case.way, some, weight, words, case.recipe.objective.label_smoothing)
        total.backward()
        weight.grad = None
        for each in states:
            each.grad = None

    once([each[: 2 if index else 4] for index, each in enumerate(states)], gold[:4])  # what libraries take once
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    if not forget_peak():
        console.warn("this system cannot forget a peak: what the loss takes is at least what is shown")
    before = peak_bytes()
    once(states, gold)
    return peak_bytes() - before


def of_a_step(case: Case, steps: int = 2) -> int:
    """The most bytes that this process held in some updates, everything counted."""
    keep_freed_memory()
    if case.way == "plain":
        for module in (losses, janus):
            assert hasattr(module, "cross_entropy")
            vars(module)["cross_entropy"] = plain_cross_entropy
        vars(janus)["aux_loss"] = plain_aux_loss
    torch.manual_seed(case.recipe.seed)
    model = build_model(case.recipe, case.vocabulary, case.vocabulary).train()
    prepared: Any = None  # the batches are made here
    trainer = Trainer(case.recipe, model, prepared, start_world("cpu"), Run(Path("unused")))
    for _ in range(steps):
        trainer.update(Window([case.batch()], []))
    return peak_bytes()


def weights(case: Case) -> int:
    """Bytes of weights, gradient and both moments of Adam, in float32."""
    with torch.device("meta"):
        model = build_model(case.recipe, case.vocabulary, case.vocabulary)
    return 16 * sum(weight.numel() for weight in model.parameters())


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = shared.parser(__doc__)
    parser.set_defaults(shape=(256, 1024))
    parser.add_argument("--vocabulary", action="append", dest="vocabularies", type=shared.positive)
    parser.add_argument("--objective", action="append", dest="objectives", choices=tuple(COPIES))
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"))
    parser.add_argument("--tokens", type=shared.positive, default=3500, help="target tokens of the batch, EOS counted")
    parser.add_argument("--words", type=shared.positive, default=14, help="of a sentence")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="the curve of the loss alone")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None) -> None:
    """Measures as asked, prints the table and draws the curve."""
    asked = options(arguments)
    if asked.plot:
        require("matplotlib", "bench")
        if asked.plot.exists():
            raise UsageError(f"{asked.plot} exists already", "name another file")
    shared.start(asked)
    rows, curves = [], dict[str, list[tuple[int, int]]]()
    cases = list(all_cases(asked))
    with console.progress("measuring", len(cases)) as bar:
        for case in cases:
            name, needed = case.recipe.objective.name, COPIES[case.recipe.objective.name] * case.logits
            found: list[int] = []
            if case.way == "plain" and needed > free():
                console.say(f"left out: {name} plain, {case.vocabulary:,} words: needs about {needed / 2**30:.0f} GiB")
            else:
                for function in (of_the_loss, of_a_step):
                    with shared.apart(asked.threads) as call:
                        found.append(call(function, case))
                curves.setdefault(f"{name}, {case.way}", []).append((case.vocabulary, found[0]))
            table = 4 * case.vocabulary * case.recipe.model.width
            numbers = [found[0], table, case.logits, found[1], weights(case)] if found else [None] * 5
            rows.append((name, case.way, f"{case.vocabulary:,}", *map(mebibytes, numbers)))
            bar.advance()
    tokens = ", ".join(
        f"{case.recipe.objective.name} {case.asked[0]:,} tokens" + f", {case.asked[1]:,} hidden" * bool(case.asked[1])
        for case in cases[:: len(WAYS) * len(asked.vocabularies or VOCABULARIES)]
    )
    columns = (
        "MiB", "loss", "vocabulary", "loss alone", "table's gradient", "one copy of logits", "peak of a step",
        "weights, gradient, Adam",
    )  # fmt: skip
    console.table(f"{asked.precision}; {tokens}", columns, rows)
    if asked.plot:
        write_atomically(asked.plot, svg(curves, f"{asked.precision}; {tokens}"))


def all_cases(asked: argparse.Namespace) -> list[Case]:
    """Every row of the table, in order."""
    made = []
    for objective in asked.objectives or list(COPIES):
        for vocabulary in asked.vocabularies or VOCABULARIES:
            changed = argparse.Namespace(**vars(asked))
            changed.changes = [*asked.changes, *[NO_KL_TO_AR_CUT] * (objective == "janus")]
            recipe = shared.load(changed, objective, asked.precision, vocabulary)
            if asked.words + 2 > recipe.model.max_length:
                raise UsageError(f"--words {asked.words} does not fit model.max_length {recipe.model.max_length}")
            rows = max(1, asked.tokens // (asked.words + 1))
            made += [Case(recipe, way, vocabulary, rows, asked.words) for way in WAYS]
    return made


def free() -> int:
    """Bytes of memory that a new process may still take; without end where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return sys.maxsize
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))


def mebibytes(count: int | None) -> str:
    return "left out" if count is None else f"{count / 2**20:,.0f}"


def svg(curves: dict[str, list[tuple[int, int]]], title: str) -> bytes:
    """The loss alone against the vocabulary, a line for each objective and way."""
    figure = require("matplotlib.figure", "bench").Figure(figsize=plots.LARGE, layout="constrained")
    axes = figure.subplots()
    for (name, points), style in zip(curves.items(), ("k-o", "k--o", "k-s", "k--s"), strict=False):
        axes.plot([words for words, _ in points], [taken / 2**20 for _, taken in points], style, label=name)
    axes.set_xlabel("words in the vocabulary")
    axes.set_ylabel("memory of the loss, forward and backward, MiB")
    axes.set_title(title, fontsize=9)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, color="0.9")
    axes.legend()
    return plots.svg_file(figure)


if __name__ == "__main__":
    shared.run(main)
