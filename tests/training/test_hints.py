"""What a mistake is answered with is what helps: no option that the command lacks, none that is refused next."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from janus_cli.data.prepared import CHECKED
from tests.helpers import Janus, edit_json, ends, read_json

# In a folder with tiny.yaml (of 8 updates), its data, and the training `run` (of 6): command, exit code, words of the
# error, words of the hint.
REFUSED = [
    ("train --resume run --set seed=9 --set training.batch_tokens=512", 4, "training.batch_tokens: 256 in the run, 512",
     "or accept it: --allow-change seed --allow-change training.batch_tokens"),
    ("train --resume run --set training.accumulate=2 --allow-change seed", 4, "training.accumulate: 1", "leave"),
    ("train --resume run --set data.synthetic.train=65", 4, "data.synthetic.train: 64", "--allow-change data."),
    ("train --resume run --recipe tiny.yaml", 4, "training.updates: 6 in the run", "leave out --recipe tiny.yaml"),
    ("train --resume run --set model.width=32", 4, "model.width 16, not 32", "--run ANOTHER"),
    ("train --resume run --set model.width=32 --allow-change model", 4, "model.width 16, not 32", "--run ANOTHER"),
    ("train --resume run --objective ar", 4, "objective janus, not ar",
     "janus train --recipe run/recipe.yaml --objective ar --from run"),
    ("train --resume run --set training.learning_rate=1 --allow-change learning_rate", 2, "learning_rate: no such knob",
     "did you mean training.learning_rate?"),
    ("train --resume run --prepared other", 4, "other is not the data that run was trained on: train differ",
     "leave --prepared out"),
    ("train --resume run --prepared other --dry-run", 4, "other is not the data", "leave --prepared out"),
    ("train --recipe tiny.yaml --run x --prepared text", 3, "no prepared data in text",
     "janus preprocess --recipe tiny.yaml --data-dir text"),
    ("train --recipe tiny.yaml --run x --set tokenizer.vocabulary=99", 3, "tokenizer.vocabulary was 120",
     "hint: to use it as it was made, add --set tokenizer.vocabulary=120; or"),
    ("train --recipe squad_qg --set model.heads=3", 2, "error: --set model.heads=3: model: width 256 is not",
     "recipes show squad_qg"),
    ("inspect .", 2, ". is not a run", "it holds runs: run"),
    ("decode runs/nowhere", 2, "runs/nowhere is not a run: there is no such folder", "runs are folders"),
    ("decode tatoeba-deen", 2, "no such folder", "is called pretrained:tatoeba-deen"),
    ("report .", 2, ". is not a run", "it holds runs: run"),
    ("inspect run/checkpoints", 2, "run/checkpoints is not a run", "--run run --checkpoint NAME"),
    ("decode run/checkpoints/last", 2, "is not a run", "--run run --checkpoint last"),
    ("decode run --checkpoint 4", 4, "there is no checkpoint 4 in run, did you mean step-000004?", "checkpoints"),
    ("decode data/tiny.src-tgt", 2, "tiny.src-tgt is not a run", "it is prepared data"),
]  # fmt: skip


def contents() -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in Path().rglob("*") if file.is_file() and file.name != CHECKED}


@pytest.mark.parametrize(("command", "code", "error", "hint"), REFUSED)
def test_a_refusal_names_the_mistake_and_what_helps(
    trained: Path, shell: Janus, command: str, code: int, error: str, hint: str
) -> None:
    Path("text").mkdir()
    Path("text/train.src").write_text("a b c\n")
    shutil.copytree("data/tiny.src-tgt", "other")
    splits = read_json("other/manifest.json")["splits"]
    splits["train"]["fingerprint"] = "another"
    edit_json("other/manifest.json", splits=splits)
    before = contents()
    ends(shell(*command.split()), code, error, hint, out="")
    assert contents() == before


def test_a_dry_run_of_a_resume_says_where_it_would_continue(trained: Path, shell: Janus) -> None:
    before = contents()
    resume = ("train", "--resume", "run", "--dry-run")
    assert "run is finished after 6 updates" in shell(*resume)[2]
    more = ("--set", "training.updates=9", "--allow-change", "training.updates")
    assert "it would continue after update 6" in shell(*resume, *more)[2]
    faster = ("--set", "training.updates=9", "--set", "training.learning_rate=0.5")
    both = ("--allow-change", "training.updates,training.learning_rate")
    assert "the learning rate jumps" in shell(*resume, *faster, *both)[2]
    assert contents() == before


def test_every_validation_is_a_line_with_the_score(trained: Path, shell: Janus) -> None:
    err = ends(shell("train", "--recipe", "tiny.yaml", "--run", "new"), 0)
    assert re.findall(r"^validation after update (\d+): bleu_ar \d+\.\d\d, the best ", err, re.M) == ["4", "8"]
    assert re.search(r"^done after 8 updates; best bleu_ar \d+\.\d\d at update", err, re.M)


def test_a_resume_whose_data_is_gone_names_the_recipe_of_the_run(trained: Path, shell: Janus) -> None:
    """Another recipe would replace the data by other text."""
    edit_json("run/manifest.json", prepared="nowhere")
    shutil.rmtree("data", ignore_errors=True)
    assert "--recipe demo" not in ends(shell("train", "--resume", "run", "--dry-run"), 3, "--recipe run/recipe.yaml")
