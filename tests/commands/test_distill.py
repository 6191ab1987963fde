"""`janus distill`: a teacher's outputs as training data, whole or not at all, and a student that trains on them."""

import fcntl
import json
import shlex
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from untrained import CHANGES, Stop, ctrl_c, resume_command

from janus_cli import recipe_load
from janus_cli.core.batch import EOS, pad
from janus_cli.core.generate import generate
from janus_cli.data.prepared import open_prepared
from janus_cli.data.store import Store, store_files
from janus_cli.decoding import distill as distilling
from janus_cli.decoding.distill import must_have_sources
from janus_cli.engines.engine import Engine
from janus_cli.errors import DataError, UsageError
from janus_cli.runs import teacher
from janus_cli.training.checkpoint import fingerprint
from janus_cli.training.model import load_model
from tests.helpers import Janus, ends, read_json

OUT = Path("data/demo-distilled.src-tgt")
SMALL = ("--batch-sentences", "16")


@pytest.fixture
def distill(any_janus: Janus) -> Janus:
    return partial(any_janus, "distill")


def manifest(folder: Path = OUT) -> dict[str, Any]:
    return read_json(folder / "manifest.json")


def stores(folder: Path = OUT) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "manifest.json"}


def left() -> list[str]:
    return sorted(path.name for path in Path("data").iterdir() if path.name.startswith("."))


@pytest.mark.parametrize(("run", "beam"), [("ar", 3), ("ar", 1), ("janus", 2)])
def test_targets_are_what_the_teacher_says_of_each_source_alone(distill: Janus, run: str, beam: int) -> None:
    assert distill(f"runs/{run}", "--beam", str(beam))[:2] == (0, "")
    recipe = recipe_load.load("demo", CHANGES, run)
    options = replace(recipe.decoding, beam=beam)
    model = load_model(Path(f"runs/{run}/checkpoints/last").resolve())
    raw, made = Store.open(Path("data/demo"), "train"), Store.open(OUT, "train")
    dropped: dict[str, int] = {}
    at_limit, rows = 0, iter(range(len(made)))
    for index in range(len(raw)):
        source = raw.pair(index)[0].tolist()
        ((found,),) = generate(model, pad([[*source, EOS]]), "ar", options, "content")
        at_limit += len(found.tokens) == int(len(source) * 0.5) + 2
        long, short = max(len(source), len(found.tokens)), min(len(source), len(found.tokens))
        if not found.tokens or long > 3 * short:
            reason = "ratio" if found.tokens else "empty"
            dropped[reason] = dropped.get(reason, 0) + 1
            continue
        kept = made.pair(next(rows))
        assert (kept[0].tolist(), kept[1].tolist()) == (source, found.tokens)
    assert next(rows, None) is None
    about = manifest()
    assert about["splits"]["train"]["dropped"] == dropped
    assert (about["splits"]["train"]["in"], about["splits"]["train"]["kept"]) == (len(raw), len(made))
    assert about["distilled"]["at_limit"] == at_limit > 0
    assert len(made) > 200


def test_everything_but_the_training_targets_stays(distill: Janus) -> None:
    code, _, err = distill("ar", "--checkpoint", "step-000001", "--set", "decoding.length_penalty=0.5")
    assert code == 0
    assert "may be cut by the length limit (0.5 × source + 2 tokens)" in err
    raw, made = stores(Path("data/demo")), stores()
    assert raw.keys() == made.keys()
    assert {name for name in raw if raw[name] != made[name]} <= set(store_files("train"))
    before, now = manifest(Path("data/demo")), manifest()
    changed = {"splits", "files", "created", "distilled"}
    assert {key: value for key, value in now.items() if key not in changed} == {
        key: value for key, value in before.items() if key not in changed
    }
    assert now["splits"] | {"train": {}} == before["splits"] | {"train": {}}
    about = now["distilled"]
    assert about["run"] == "runs/ar"
    assert (about["checkpoint"], about["step"]) == ("step-000001", 1)
    assert about["sha256"] == fingerprint(Path("runs/ar/checkpoints/step-000001"))
    assert about["fingerprint"] == before["splits"]["train"]["fingerprint"]
    assert Path(about["prepared"]) == Path("data/demo").resolve()
    assert (about["options"]["beam"], about["options"]["length_penalty"]) == (3, 0.5)
    # Whoever follows the manifest gets the same bytes.
    words = shlex.split(about["command"])
    assert distill(*words[2:], "--out", "data/second")[0] == 0
    assert stores(Path("data/second")) == made
    assert not left()


def test_prepared_data_of_the_recipe_that_says_how_to_make_it_again(distill: Janus) -> None:
    assert distill("runs/ar", "--beam", "2", "--out", "data/mine")[0] == 0
    recipe = recipe_load.load("demo", CHANGES)
    assert len(open_prepared(recipe, Path("data/mine")).train) == manifest(Path("data/mine"))["splits"]["train"]["kept"]
    (Path("data/mine") / "train.target.npy").write_bytes(b"")
    with pytest.raises(DataError, match="does not fit") as caught:
        open_prepared(recipe, Path("data/mine"))
    assert caught.value.hint == (
        "make it again: janus distill runs/ar --checkpoint step-000002 --beam 2 --out data/mine --force"
    )


def test_stopped_and_resumed_it_has_the_same_bytes(distill: Janus, stop: Stop) -> None:
    assert distill("ar", *SMALL, "--out", "data/whole")[0] == 0
    stop(2, ctrl_c)
    code, out, err = distill("ar", *SMALL)
    assert (code, out) == (130, "")
    assert f"stopped by SIGINT; 64 finished lines are kept in data/.{OUT.name}.partial" in err
    assert not OUT.exists()
    stop(3, ctrl_c)
    assert distill(*resume_command(err))[0] == 130
    ends(distill(*resume_command(err)), 0, "resuming after 160 finished lines")
    assert stores() == stores(Path("data/whole"))
    assert not left()


def test_stopped_while_the_folder_is_written(distill: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    assert distill("ar", "--out", "data/whole")[0] == 0
    write_manifest = distilling.write_manifest
    monkeypatch.setattr(distilling, "write_manifest", lambda *some: signal.raise_signal(signal.SIGTERM))
    err = ends(distill("ar", "--out", "data/x y"), 143, "298 finished lines are kept")
    assert not Path("data/x y").exists()
    monkeypatch.setattr(distilling, "write_manifest", write_manifest)
    monkeypatch.setattr(Engine, "__call__", None)  # nothing is decoded again
    assert distill(*resume_command(err))[0] == 0
    assert stores(Path("data/x y")) == stores(Path("data/whole"))
    assert not left()


def test_nothing_is_overwritten_without_force(distill: Janus, stop: Stop) -> None:
    OUT.mkdir()  # an empty folder is free
    assert distill("ar")[0] == 0
    before = stores()
    ends(distill("ar", "--beam", "1"), 2, f"{OUT} holds prepared data already")
    stop(1, ctrl_c)
    err = ends(distill("ar", "--beam", "1", "--force", *SMALL), 130)
    assert stores() == before
    assert distill(*resume_command(err))[0] == 0  # --force was said when it began
    assert stores() != before
    assert not left()
    Path("notes").mkdir()
    Path("notes/mine.txt").write_text("mine")
    ends(distill("ar", "--out", "notes", "--force"), 2, "notes holds something other")
    assert Path("notes/mine.txt").read_text() == "mine"


def test_what_was_kept_is_neither_lost_nor_mixed(distill: Janus, stop: Stop) -> None:
    stop(1, ctrl_c)
    words = resume_command(distill("ar", *SMALL)[2])
    file = Path(f"data/.{OUT.name}.partial")
    kept = file.read_bytes()
    for arguments, code, message in [
        (["ar", *SMALL], 2, "32 finished lines"),
        ([*words, "--beam", "2"], 2, "beam 3, now 2"),
        (["ar", *SMALL, "--checkpoint", "step-000001", "--resume"], 4, "started with the weights of step-000002"),
    ]:
        got, _, err = distill(*arguments)
        assert (got, message in err, file.read_bytes() == kept) == (code, True, True), err
    with file.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, _, err = distill(*words)
    assert (code, "name another folder with --out" in err) == (7, True)
    assert distill("ar", "--force")[0] == 0
    assert not left()


def test_more_sources_that_the_teacher_cannot_read_are_told(distill: Janus) -> None:
    Path("more.src").write_text("ba du\n" + "日本 собака\n" * 300 + "ba " * 99 + "\n", encoding="utf-8")
    err = ends(distill("ar", "--source", "more.src", "--set", "decoding.max_extra=0"), 0)
    about = manifest()["distilled"]
    read, unknown = about["source_tokens"], about["unknown_source_tokens"]
    assert about["sources_cut"] == 1
    assert f"warning: {OUT}: {unknown:,} of {read:,} tokens ({unknown / read:.1%}) are unknown to the tokenizer" in err
    assert f"warning: {OUT}: 1 line cut to the 39 tokens that the model reads\n" in err


def test_more_sources_from_a_table(distill: Janus) -> None:
    Path("more.src").write_text("ba du\nge\n" * 20)
    Path("more.csv").write_text("id,src,text\n" + "1,no,ba du\n2,no,ge\n" * 20)
    assert distill("ar", "--source", "more.src", "--out", "data/plain")[0] == 0
    code, _, err = distill("ar", "--source", "more.csv", "--column", "text", "--out", "data/table")
    assert (code, "more.csv: CSV with commas; column text" in err) == (0, True)
    assert stores(Path("data/table")) == stores(Path("data/plain"))
    about = manifest(Path("data/table"))["distilled"]
    assert (about["sources"][0]["lines"], "--column text" in about["command"]) == (40, True)
    Path("half.src").write_text("ba du\nge\n" * 10)
    Path("half.csv").write_text("id,src,text\n" + "1,no,ba du\n2,no,ge\n" * 10)
    both = ("--source", "half.src", "--source", "half.csv", "--column", "text")
    assert distill("ar", *both, "--out", "data/both")[0] == 0, "the column is of the table alone"
    assert stores(Path("data/both")) == stores(Path("data/plain"))
    code, _, err = distill("ar", "--source", "more.csv", "--column", "txt", "--out", "data/none")
    assert (code, "more.csv (CSV) has no column 'txt'; its columns: 1 'id', 2 'src', 3 'text'" in err) == (3, True)


def test_more_sources_stopped_and_gone_on_with(distill: Janus, stop: Stop) -> None:
    text = "".join(f"ba{' du' * (each % 20)}{' ge' * (each // 20)}\n" for each in range(40))
    Path("more.src").write_text(text)
    more = ("--source", "more.src", "--surest", "0.75")
    assert distill("ar", *SMALL, *more, "--out", "data/whole")[0] == 0
    about = manifest(Path("data/whole"))
    train, distilled = about["splits"]["train"], about["distilled"]
    assert (train["in"], train["in"] - train["kept"]) == (298 + 40, sum(train["dropped"].values()))
    assert 0 < train["dropped"]["unsure"] <= 10
    assert (distilled["surest"], distilled["least_score"] < 0) == (0.75, True)
    assert "--surest 0.75" in distilled["command"]
    assert str(teacher(about)).endswith(", beam 3, the surest 75 % of 40 more sources")
    del distilled["surest"]
    assert str(teacher(about)).endswith(", beam 3, 40 more sources")
    stop(10, partial(signal.raise_signal, signal.SIGTERM))
    err = ends(distill("ar", *SMALL, *more), 143, "320 finished lines are kept")
    words = resume_command(err)
    ends(distill(*[word for word in words if word not in more]), 2, "more.src")
    Path("more.src").write_text("ba du\nga\n" * 20)
    ends(distill(*words), 2, "more.src")
    Path("more.src").write_text(text)
    assert distill(*words)[0] == 0
    assert stores() == stores(Path("data/whole"))
    assert not left()


def test_a_job_that_is_killed_at_its_end_is_done(distill: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between naming the folder and deleting the kept lines."""
    plain = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".partial":
            raise KeyboardInterrupt
        plain(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        assert distill("runs/ar", *SMALL)[0] == 130
    expected = stores()
    assert left() == [".demo-distilled.src-tgt.partial"]
    OUT.rename("data/kept")
    shutil.copytree("data/demo", OUT)
    ends(distill("runs/ar", *SMALL, "--resume"), 2, "holds prepared data")  # somebody else's, by now
    assert read_json(OUT / "manifest.json") == read_json(Path("data/demo/manifest.json"))
    shutil.rmtree(OUT)
    Path("data/kept").rename(OUT)
    ends(distill("runs/ar", *SMALL, "--resume"), 0)
    assert (stores(), left()) == (expected, [])


def test_a_student_trains_on_it_goes_on_and_is_decoded_and_scored(tiny_recipe: Path, shell: Janus) -> None:
    def janus(*arguments: str) -> str:
        code, out, err = shell(*arguments)
        assert code == 0, err
        return out + err

    janus("train", "--recipe", "tiny.yaml", "--objective", "ar")
    found = janus("distill", "--set", "decoding.max_extra=0", "--beam", "2")
    words = shlex.split(found.split("next: janus ")[1].replace("--recipe runs/tiny-ar/recipe.yaml", ""))
    assert words[words.index("--prepared") + 1] == "data/tiny-distilled.src-tgt"
    student = words[words.index("--run") + 1]
    janus(*words, "--recipe", "tiny.yaml", "--set", "training.updates=4")
    (Path("data") / "tiny.src-tgt").rename("data/elsewhere")
    more = ("--set", "training.updates=8", "--allow-change", "training.updates")
    assert "from update 4 to 8" in janus("train", "--resume", "--run", student, *more)
    log = [json.loads(line) for line in Path(student, "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 8
    for split in ("valid", "test"):
        janus("decode", "--run", student, "--split", split)
        scored = janus("score", "--run", student, "--json")
        assert '"bleu"' in scored
        reference = Path(student, "decode", f"{split}.reference.txt")
        assert reference.read_bytes() == Path(f"data/elsewhere/{split}.target.txt").read_bytes()
    assert "targets by runs/tiny-ar, checkpoint step-" in Path(student, "run.txt").read_text()
    assert "targets by: runs/tiny-ar, checkpoint step-" in janus("inspect", student)
    assert Path(manifest(Path(student))["prepared"]).samefile("data/tiny-distilled.src-tgt")


def test_the_next_command_works_for_a_teacher_with_a_tokenizer_of_its_own(distill: Janus, any_janus: Janus) -> None:
    """As one that was fine-tuned: the recipe of its name has another one."""
    err = ends(distill("ar", "--beam", "1"), 0)
    found = any_janus(*shlex.split(err.split("next: janus ")[1]), "--dry-run")
    assert found[0] == 0, found


def test_a_pre_training_has_nothing_to_distil() -> None:
    with pytest.raises(UsageError, match="plain text"):
        must_have_sources(recipe_load.load("pretrain_small"), "distil")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ar", "--surest", "0.5"], 2, "chooses among the lines of --source, and there is none"),
        (["ar", "--source", "recipe.yaml", "--surest", "nan"], 2, "Invalid value for '--surest'"),
        (["ar", "--source", "recipe.yaml", "--surest", "0"], 2, "Invalid value for '--surest'"),
        (["ar", "--source", "nowhere"], 3, "nowhere does not exist"),
        (["cmlm"], 2, "runs/cmlm was trained with objective cmlm: it has no autoregressive side"),
        (["ar", "--run", "janus"], 2, "both name a run"),
        (["nothing"], 2, "is not a run"),
        (["ar", "--checkpoint", "step-9"], 4, "no checkpoint step-9"),
        (["ar", "--set", "training.updates=1"], 2, "only decoding.…"),
        (["ar", "--set", "decoding.nbest=3"], 2, "a teacher writes one output, the likeliest"),
        (["ar", "--out", "data/demo"], 2, "holds prepared data already"),
        (["ar", "--out", "data/demo/manifest.json/x"], 3, "cannot be written"),
    ],
)
def test_mistakes(distill: Janus, arguments: list[str], code: int, message: str) -> None:
    before = sorted(Path().rglob("*"))
    ends(distill(*arguments), code, message, "\nhint: ", out="")
    assert sorted(Path().rglob("*")) == before


def test_data_that_the_teacher_was_not_trained_on(distill: Janus) -> None:
    file = Path("runs/ar/manifest.json")
    theirs = read_json(file)
    theirs["splits"]["train"]["fingerprint"] = "0" * 64
    file.write_text(json.dumps(theirs))
    ends(distill("ar"), 3, "is not the data that runs/ar was trained on")
    assert not OUT.exists()


def test_a_dry_run_writes_nothing(distill: Janus) -> None:
    before = sorted(Path().rglob("*"))
    code, out, err = distill("--dry-run", "--beam", "4")
    assert (code, out) == (0, "")
    assert "would decode the 298 training sources of " in err
    assert f" into {OUT} with runs/janus, " in err
    assert "beam 4" in err
    assert sorted(Path().rglob("*")) == before


def test_a_finished_distillation_is_already_complete(distill: Janus) -> None:
    assert distill("ar", "--resume")[0] == 0
    before = manifest()
    code, _, err = distill("ar", "--resume", *SMALL)
    assert (code, f"{OUT} is already complete" in err, manifest() == before) == (0, True, True), err
    Path("more").write_text("ba\n")
    for more, message in [
        (["--beam", "1"], "with beam 3, now 1"),
        (["--checkpoint", "step-000001"], "with the weights of step-000002"),
        (["--source", "more"], "with source null, now {"),
    ]:
        ends(distill("ar", "--resume", *more), 2, f"error: {OUT} is finished already, {message}")
    ends(distill("ar", "--resume", "--out", "data/demo"), 2, "data/demo holds prepared data already")
    assert not left()
