"""XLNet (Yang et al., 2019): permutation language modelling, in two streams.

L = mean over the last tokens of a random order z of  -log P(y_{z_r} | X, y_{z_1} .. y_{z_{r-1}}, position z_r)
    (section 2.3; two streams: equations 4 and 5)

Content of rank r is born at time r and lives on; a query, which knows its position only, predicts it half a tick
earlier. Tokens that are not predicted are the context: always there, so they see each other in both directions, and
never a token that is predicted. EOS takes part in the order, because no length is predicted. Decoding goes from left to
right.
"""

from math import inf

from torch import Tensor

from janus_cli.core.batch import BOS, IGNORE, PAD, Batch
from janus_cli.core.knobs import XlnetObjective
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws, random_order
from janus_cli.core.objectives.base import Objective, Plan, Term, count_units, stream_loss
from janus_cli.core.stream import Stream, beside, masked, revealed


def permuted(target: Tensor, rank: Tensor, share: float) -> Stream:
    """BOS, the tokens in the order of their rank (B, T), and queries, of which the last `share` of each row predict."""
    gold, query = revealed(target, rank)
    begin = masked(target[:, :1], rank[:, :1])
    count = (rank > 0).sum(1, keepdim=True)
    known = count - (share * count).ceil()  # the highest rank that is not predicted
    gold = gold.replace(birth=gold.birth.masked_fill(gold.time <= known, -inf))
    early = query.time + 0.5 <= known  # a query of rank r has time r - 1/2
    return beside(begin, gold, query.replace(labels=query.labels.masked_fill(early, IGNORE)))


def plan(batch: Batch, draws: Draws, knobs: XlnetObjective) -> Plan:
    rank = random_order((batch.target != PAD) & (batch.target != BOS), draws)
    stream = permuted(batch.target, rank, knobs.predicted)
    return Plan({"permuted": stream}, count_units(batch, stream.labelled))


def loss(model: Transformer, batch: Batch, plan: Plan, knobs: XlnetObjective) -> dict[str, Term]:
    memory = model.encode(batch.source, batch.source_real)
    ce = stream_loss(model, memory, plan.streams["permuted"], knobs.label_smoothing)
    return {"ce_permuted": Term(ce, "hidden", 1.0)}


XLNET = Objective(plan, loss, terms=("ce_permuted",))
