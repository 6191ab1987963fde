"""An objective is its file, its knobs and one entry in each of two dicts: a tenth one trains and decodes."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = '''
"""Word dropout (Bowman et al. 2016): L = CE_AR, where a share of what the decoder reads is UNK."""

import sys
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from janus_cli.core import knob, knobs


@dataclass(frozen=True)
class WordDropoutObjective(knobs.ObjectiveKnobs):
    """A language model that cannot rely on the words before."""

    ar_stream: ClassVar[knobs.ARSide] = "content"
    name: Literal["worddropout"] = "worddropout"
    dropped: Annotated[float, knob.Knob("share of the tokens that are read as UNK", ge=0, le=1)] = 0.2


knobs.OBJECTIVES["worddropout"] = WordDropoutObjective

import torch

from janus_cli.core import objectives
from janus_cli.core.batch import UNK
from janus_cli.core.noise import is_text
from janus_cli.core.objectives.base import Objective, Plan, Term, count_units, stream_loss
from janus_cli.core.stream import content


def plan(batch, draws, knobs):
    stream = content(batch.target)
    unread = is_text(stream.tokens) & (draws.uniform(stream.keys) < knobs.dropped)
    return Plan({"ar": stream.replace(tokens=stream.tokens.masked_fill(unread, UNK))}, count_units(batch))


def loss(model, batch, plan, knobs):
    memory = model.encode(batch.source, batch.source_real)
    return {"ce_ar": Term(stream_loss(model, memory, plan.streams["ar"], knobs.label_smoothing), "tokens", 1.0)}


objectives.OBJECTIVES["worddropout"] = Objective(plan, loss, terms=("ce_ar",))

from janus_cli.cli import main

main(sys.argv[1:])
'''


def janus(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def test_a_tenth_objective_trains_and_decodes(tiny_recipe: Path) -> None:
    janus(
        "train", "--recipe", "tiny.yaml", "--objective", "worddropout", "--set", "objective.dropped=0.3",
        "--set", "training.updates=30", "--set", "training.validate_every=10",
    )  # fmt: skip
    run = Path("runs/tiny-worddropout")
    assert "dropped: 0.3" in (run / "recipe.yaml").read_text()
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [entry["ce_ar"] for entry in log if entry["kind"] == "valid"]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert janus("decode", "--mode", "ar").stdout.count("\n") == 8
    explained = janus("recipes", "explain", "--objective", "worddropout").stdout
    assert "share of the tokens that are read as UNK" in explained
