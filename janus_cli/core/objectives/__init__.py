"""Every objective by its name in a recipe.

Reading order: ar, cmlm, janus; cmlmc, cemat (CMLM and more); xlnet, mpnet (a random order), prophetnet, bang (several
tokens ahead).
"""

from janus_cli.core.objectives.ar import AR
from janus_cli.core.objectives.bang import BANG
from janus_cli.core.objectives.base import Objective, Plan, Term
from janus_cli.core.objectives.cemat import CEMAT
from janus_cli.core.objectives.cmlm import CMLM
from janus_cli.core.objectives.cmlmc import CMLMC
from janus_cli.core.objectives.janus import JANUS
from janus_cli.core.objectives.mpnet import MPNET
from janus_cli.core.objectives.prophetnet import PROPHETNET
from janus_cli.core.objectives.xlnet import XLNET

OBJECTIVES: dict[str, Objective] = {
    "ar": AR,
    "cmlm": CMLM,
    "cmlmc": CMLMC,
    "cemat": CEMAT,
    "janus": JANUS,
    "xlnet": XLNET,
    "mpnet": MPNET,
    "prophetnet": PROPHETNET,
    "bang": BANG,
}

__all__ = ["OBJECTIVES", "Objective", "Plan", "Term"]
