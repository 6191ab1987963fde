"""Every objective by its name in a recipe. Reading order: ar, cmlm, cmlmc, cemat, janus."""

from janus_cli.core.objectives.ar import AR
from janus_cli.core.objectives.base import Objective, Plan, Term
from janus_cli.core.objectives.cemat import CEMAT
from janus_cli.core.objectives.cmlm import CMLM
from janus_cli.core.objectives.cmlmc import CMLMC
from janus_cli.core.objectives.janus import JANUS

OBJECTIVES: dict[str, Objective] = {"ar": AR, "cmlm": CMLM, "cmlmc": CMLMC, "cemat": CEMAT, "janus": JANUS}

__all__ = ["OBJECTIVES", "Objective", "Plan", "Term"]
