"""The core without the rest of the house: nothing but torch is needed to train a model and to decode with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import janus_cli

SCRIPT = """
import sys
import torch
from janus_cli.core.batch import EOS, collate, pad
from janus_cli.core.generate import generate
from janus_cli.core.knobs import Decoding, JanusObjective, Model, Noise
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES

torch.manual_seed(1)
texts = [[5 + (start + place) % 7 for place in range(3 + start % 3)] for start in range(12)]
batch = collate(texts, texts, range(len(texts)))  # the task: to copy
objective, knobs = OBJECTIVES["janus"], JanusObjective(noise=Noise(uniform=0.5, full=0.5))
shape = Model(width=32, feedforward=64, heads=2, encoder_layers=1, decoder_layers=1, dropout=0.0, max_length=16)
model = Transformer(shape, 12, 12, length_head=True).train()
optimizer, losses = torch.optim.Adam(model.parameters(), 3e-3), []
for epoch in range(40):
    plan = objective.plan(batch, Draws(1, epoch, batch.ids), knobs)
    terms = objective.loss(model, batch, plan, knobs)
    loss = torch.stack([term.weight * term.total * plan.share(term.unit) for term in terms.values()]).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(float(loss.detach()))
assert losses[-1] < 0.8 * losses[0], losses
for mode in ("ar", "nar", "spec"):
    outputs = generate(model, pad([[*text, EOS] for text in texts]), mode, Decoding(), "content")
    assert len(outputs) == len(texts)
    assert any(each[0].tokens for each in outputs)
ours = sorted(name for name in sys.modules if name.startswith("janus_cli"))
assert all(name == "janus_cli" or name.startswith("janus_cli.core") for name in ours), ours
assert not {"pydantic", "yaml", "typer", "rich"} & sys.modules.keys()
"""


def test_a_copy_of_core_alone_trains_and_decodes(tmp_path: Path) -> None:
    shutil.copytree(Path(janus_cli.__file__).parent / "core", tmp_path / "janus_cli" / "core")
    (tmp_path / "janus_cli" / "__init__.py").touch()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
