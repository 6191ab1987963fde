"""What pre-training gives: JANUS, BANG and BART's objective pre-trained on the same text, fine-tuned, and compared.

    python benchmarks/pretraining.py --data FOLDER --out runs/pretraining
    python benchmarks/pretraining.py --data FOLDER --out runs/pretraining --only none       # the tables so far

Runs `janus` commands, and prints them. Plain English text is prepared with a tokenizer of its own; each objective is
pre-trained on it, with the same noise and as many updates; the last checkpoints are fine-tuned on two tasks with that
tokenizer. The same command continues after a stop, and skips what is finished. FOLDER holds the folders that `PLAIN`
and `TASKS` name. --only takes names of trainings, with * and ?: pretrain-bang, squad_qg-bang-from-bang, e2e_nlg-*.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import Any

import shared

from janus_cli import console, recipe_load
from janus_cli.errors import UsageError
from janus_cli.files import MANIFEST, write_atomically
from janus_cli.lab.tables import markdown
from janus_cli.measures import MEASURES
from janus_cli.system import followed
from janus_cli.terminal import command

ROOT = Path(__file__).resolve().parents[1]
PLAIN = ("mono-en/{}.en", "tatoeba-deen/{}.en", "wmt-news-deen/{}.en", "multi30k/{}.en", "squad-qg/{}.src")
TASKS = {  # recipe: files of training, validation and test; how `janus score` scores
    "squad_qg": (
        [f"squad-qg/{split}.{side}" for split in ("train", "valid", "test") for side in ("src", "tgt")],
        ("--task", "squad_qg", "--pool-references", "{}/squad-qg/test.src", "--reference", "{}/squad-qg/test.tgt"),
    ),
    "e2e_nlg": (
        [f"e2e-nlg/{split}" for split in
         ("train.src", "train.tgt", "valid.src", "valid.tgt", "test.uniq.src", "test.uniq.refs.tsv")],
        ("--metrics", "bleu,rougeL", "--reference", "{}/e2e-nlg/test.uniq.refs.tsv"),
    ),
}  # fmt: skip
STARTS = ("janus", "bang", "ar")  # what is pre-trained; ar, with this noise, is BART
SYSTEMS = ("janus-from-janus", "bang-from-bang", "ar-from-ar", "janus-from-ar", "cmlm-from-ar", "janus-from-nothing")
MODES = "ar.beam5,nar.eos,semi4,nar1.lb5,nar4.lb5,nar10.lb5,nar1.lb5.rerank,nar4.lb5.rerank,nar10.lb5.rerank"
JANUS = "janus-from-janus"
CLAIMS = (  # rows to test against each other
    (f"{JANUS} ar.beam5", "bang-from-bang ar.beam5"), (f"{JANUS} nar1.lb5", "bang-from-bang nar.eos"),
    (f"{JANUS} nar4.lb5", "bang-from-bang nar.eos"), (f"{JANUS} nar4.lb5", f"{JANUS} ar.beam5"),
    (f"{JANUS} nar4.lb5.rerank", f"{JANUS} ar.beam5"), ("janus-from-ar nar4.lb5", "cmlm-from-ar nar4.lb5"),
    (f"{JANUS} nar4.lb5", "janus-from-ar nar4.lb5"), (f"{JANUS} nar4.lb5", "janus-from-nothing nar4.lb5"),
    (f"{JANUS} ar.beam5", "ar-from-ar ar.beam5"),
)  # fmt: skip
# The tasks have characters that the text has not, and few sources of more tokens than this.
TEXT = ("tokenizer.byte_fallback=true", "data.max_tokens=80")
TUNING = (  # the same for both tasks; BANG removes repeats, so all do
    "training.batch_tokens=2048", "training.learning_rate=5e-4", "training.schedule=cosine", "model.dropout=0.2",
    "training.valid_sentences=200", "training.keep_last=1", "training.keep_best=1", "decoding.remove_repeats=true",
    "decoding.rewrite_repeats=1",
)  # fmt: skip
# Of fine-tunings. BANG's released 9 streams would take twice the time.
OBJECTIVES: dict[str, tuple[str, ...]] = {"janus": (), "bang": ("objective.streams=4",), "ar": (), "cmlm": ()}
ROWS = {
    "system": "", "decoding": "", "seed": "", "passes": ".1f", "sentences/s": ".1f", "words twice": ".1%",
    "trigrams again": ".1%", "length": ".2f",
}  # fmt: skip
TESTS = {"first": "", "second": "", "seed": "", "metric": "", "difference": "+.2f", "95 %": "", "p": ".3f"}


class Study:
    """The folder `--out`, and the commands that fill it."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.out, self.text = asked, asked.out, asked.out / "text"
        self.reuse = f"tokenizer.reuse={json.dumps(str(self.text))}"

    def do(self) -> None:
        """Everything that is asked for and not there yet."""
        names = [f"pretrain-{start}" for start in STARTS] + [f"{task}-{system}" for task in TASKS for system in SYSTEMS]
        wanted = [name for name in names if any(fnmatch(name, pattern) for pattern in self.asked.only.split(","))]
        if wanted:
            self.prepare()
        for name in wanted:
            task, objective, *start = name.replace("-from-", "-").split("-")
            if start:
                self.tune(task, objective, start[0], self.out / name)
            else:
                self.pretrain(objective, self.out / name)

    def prepare(self) -> None:
        """The plain text with a new tokenizer, and both tasks with the same one."""
        if not (self.text / MANIFEST).is_file():
            words = ("--recipe", "pretrain_small", "--data-dir", plain_text(self.asked.data, self.out / "plain"))
            janus("preprocess", *words, "--out", self.text, *sets(TEXT))
        for task, (names, _) in TASKS.items():
            if not (self.out / task / MANIFEST).is_file():
                files = [self.asked.data / name for name in names]
                words = ("--train", *files[:2], "--valid", *files[2:4], "--test", *files[4:], "--out", self.out / task)
                janus("preprocess", "--recipe", task, *words, *sets([self.reuse]))

    def pretrain(self, objective: str, run: Path) -> None:
        steps = self.asked.steps
        if last_step(run) < steps:
            words = ("--recipe", "pretrain_small", "--objective", objective, "--prepared", self.text, "--run", run)
            changes = [*TEXT, f"training.updates={steps}", *budget(steps)]
            if objective != "janus":
                changes += [*OBJECTIVES[objective], "objective.label_smoothing=0"]  # as the recipe sets it for janus
            janus("train", *words, "--resume", "--threads", self.asked.threads, *sets([*changes, *self.asked.changes]))

    def tune(self, task: str, objective: str, start: str, out: Path) -> None:
        """Fine-tunes, and decodes the test split with the last checkpoint. Raises UsageError: no weights to start."""
        weights, steps = self.out / f"pretrain-{start}", self.asked.tuning_steps
        done, seeds = self.results(out), self.asked.seeds.split(",")
        if done and done["settings"]["steps"] == steps and {*seeds} <= {str(each["seed"]) for each in done["systems"]}:
            return
        system = f"{objective}: {shlex.join([objective, *OBJECTIVES[objective]])}"
        words = ["--recipe", task, "--variant", system, "--prepared", self.out / task, "--out", out, "--steps", steps]
        words += ["--seeds", self.asked.seeds, "--modes", MODES, "--threads", self.asked.threads]
        changes = [*TUNING, *budget(steps)]
        if start not in STARTS:
            model = recipe_load.load("pretrain_small", self.asked.changes).plain()["model"]
            changes = [self.reuse, f"model={json.dumps(model)}", *changes]
        elif last_step(weights) < self.asked.steps:
            raise UsageError(f"{out.name} needs {weights} after {self.asked.steps:,} updates", "pre-train it first")
        else:
            words += ["--from", weights / "checkpoints" / "last"]
        janus("compare", *words, *sets([*changes, *self.asked.changes]))

    def results(self, out: Path) -> dict[str, Any]:
        """Of a comparison; empty if nothing or not all of it is finished."""
        file = out / "comparison.json"
        found: dict[str, Any] = json.loads(file.read_bytes()) if file.is_file() else {}
        systems = found.get("systems", [])
        return found if systems and not any(each["failed"] for each in systems) else {}

    def tables(self) -> Iterator[str]:
        """As Markdown: the finished rows of each task (passes, speed, repeats: of all seeds), and the claims."""
        for task in TASKS:
            texts, rows, heads, tests = dict[tuple[str, int], Path](), [], dict[str, str](), []
            for system, out in ((system, self.out / f"{task}-{system}") for system in SYSTEMS):
                for row in self.results(out).get("rows", ()):
                    label, pace = row["label"], row["speed"]["sentences_per_second"]["median"]
                    for seed in row["seeds"]:
                        text = out / "outputs" / f"{row['system']}.seed{seed}.{label}.txt"
                        scores = {each["name"]: each["value"] for each in self.score(task, text)["scores"]}
                        heads = {MEASURES[name].head: ".2f" for name in scores}
                        cost = row["passes"], pace, *row["repeats"].values()
                        rows.append([system, label, seed, *cost, *scores.values()])
                        texts[f"{system} {label}", seed] = text
            for (one, other), seed in product(CLAIMS, sorted({seed for _, seed in texts})):
                if {(one, seed), (other, seed)} <= texts.keys():
                    for each in self.score(task, texts[one, seed], texts[other, seed])["comparisons"]:
                        bounds = "{low:+.2f} … {high:+.2f}".format(**each["interval"])
                        tests.append([one, other, seed, each["name"], each["difference"], bounds, each["p"]])
            if rows:
                yield from (f"### {task}", "", markdown({**ROWS, **heads}, rows), "")
            if tests:
                yield from (markdown(TESTS, tests), "")

    def score(self, task: str, *texts: Path) -> dict[str, Any]:
        """What `janus score` says of outputs, or of the first against the second; kept."""
        names = [f"{text.parents[1].name}.{text.stem}" for text in texts]
        kept = self.out / "scores" / f"{'-against-'.join(names)}.json"
        if not kept.is_file():
            first, *others = texts
            words = [word.format(self.asked.data) for word in TASKS[task][1]]
            words += [f"--against={other}" for other in others]
            kept.parent.mkdir(exist_ok=True)
            write_atomically(kept, janus("score", first, *words, "--json").encode())
        values: dict[str, Any] = json.loads(kept.read_bytes())
        return values


def plain_text(data: Path, folder: Path) -> Path:
    """The folder with the different lines of all plain text; valid has none that train has.

    Raises UsageError: a file is missing.
    """
    for path in (data / name.format(split) for name in PLAIN for split in ("train", "valid")):
        if not path.is_file():
            raise UsageError(f"{path} is not there", "name the folder of all texts with --data")
    folder.mkdir(parents=True, exist_ok=True)
    known = {b""}
    for split in ("train", "valid"):
        texts = [(data / name.format(split)).read_bytes() for name in PLAIN]
        lines = dict.fromkeys(line for text in texts for line in text.split(b"\n") if line not in known)
        known |= lines.keys()
        write_atomically(folder / f"{split}.en", b"".join(line + b"\n" for line in lines))
    return folder


def last_step(run: Path) -> int:
    """The updates that its last checkpoint has had; 0 without one."""
    state = followed(run / "checkpoints" / "last") / "state.json"
    return int(json.loads(state.read_bytes())["step"]) if state.is_file() else 0


def budget(steps: int) -> list[str]:
    """Changes that fit a training into so many updates."""
    return [f"training.warmup={max(1, steps // 20)}", f"training.validate_every={max(1, steps // 4)}"]


def sets(changes: Sequence[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def janus(*words: object) -> str:
    """The stdout of a command of this checkout. A stop signal is passed on to it: trainings save before they end."""
    console.say(f"$ {command('janus', *words)}")
    child = subprocess.Popen(
        [sys.executable, "-m", "janus_cli", *map(str, words)], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: child.send_signal(number)) for number in numbers}
    said, _ = child.communicate()
    for number in numbers:
        signal.signal(number, before[number])
    if child.returncode:
        console.error(f"janus {words[0]} ended with exit code {child.returncode}")
        sys.exit(max(1, child.returncode))
    return said


def main(arguments: Sequence[str] | None) -> None:
    """Does what is asked for, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining"), metavar="FOLDER")
    parser.add_argument("--steps", type=shared.positive, default=12_000, help="updates of a pre-training")
    parser.add_argument("--tuning-steps", type=shared.positive, default=3000, help="updates of a fine-tuning")
    parser.add_argument("--only", default="*", metavar="NAME,…", help="trainings to do")
    parser.add_argument("--seeds", default="1", metavar="N,…", help="of fine-tunings")
    parser.add_argument("--threads", type=shared.positive, default=1)
    parser.add_argument("--set", action="append", dest="changes", default=[], metavar="KEY=VALUE", help="all trainings")
    study = Study(parser.parse_args(arguments))
    study.do()
    console.data("\n".join(study.tables()))


if __name__ == "__main__":
    shared.run(main)
