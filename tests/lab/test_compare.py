"""`janus compare` on tiny trainings: rows, equal budgets, several at once, continuing, failures that become rows.

And a bench that is stopped.
"""

import json
import re
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from janus_cli import recipe_load
from janus_cli.core.knobs import JanusObjective
from janus_cli.files import locked
from janus_cli.scoring.metrics import score
from tests.faults import processes
from tests.helpers import Janus, edit_json, ends, printed, read_json

QUICK = ("compare", "--recipe", "tiny.yaml", "--threads", "1", "--device", "cpu", "--no-speed")
AR = ("--objectives", "ar", "--modes", "ar.beam1")
MODES = ("--modes", "ar.beam1,nar4.lb1")
TABLE = Path("runs/compare-tiny/comparison.md")
BROKEN = "broken: ar training.clip=0.0 training.learning_rate=1e30 training.warmup=1 training.max_bad_steps=1"


@pytest.fixture
def compare(tiny_recipe: Path, shell: Janus) -> Janus:
    """Runs the command; returns the exit code, stdout and stderr."""
    return partial(shell, *QUICK)


def found(folder: str = "runs/compare-tiny") -> dict[str, Any]:
    """comparison.json."""
    return dict(read_json(f"{folder}/comparison.json"))


def names(results: dict[str, Any]) -> list[str]:
    """The rows."""
    return [f"{row['system']} {row['label']}" for row in results["rows"]]


def outputs(folder: str = "runs/compare-tiny") -> dict[str, int]:
    """When each output was written."""
    return {file.name: file.stat().st_mtime_ns for file in Path(folder, "outputs").iterdir()}


def test_every_system_has_a_row_for_each_mode_that_it_can(compare: Janus) -> None:
    pytest.importorskip("matplotlib")
    systems = ("--objectives", "ar,cmlm,bang", "--seeds", "1,2", "--modes", "ar.beam1,nar4.lb1,nar.eos,semi2")
    out = printed(compare(*systems, "--steps", "3"))
    results = found()
    assert names(results) == ["ar ar.beam1", "cmlm nar4.lb1", "bang ar.beam1", "bang nar.eos", "bang semi2"]
    assert [each["training"]["updates"] for each in results["systems"]] == [3] * 6
    assert results["against"] == "ar ar.beam1"
    assert out.strip() == TABLE.read_text().strip()
    assert "\n* p says little: there are fewer than 100 lines" in out
    assert re.search(r"^\| bang +\| +semi2 ", out, re.M)
    assert "3 updates each" in out
    references = Path("data/tiny.src-tgt/test.target.txt").read_text(encoding="utf-8").split("\n")[:-1]
    for row in results["rows"]:
        assert row["seeds"] == [1, 2]
        assert set(row["scores"]["bleu"]["values"]) == {"1", "2"}
        assert "nrefs:1" in row["scores"]["bleu"]["signature"]
        assert (row["comparison"] is None) == (row["label"] == "ar.beam1" and row["system"] == "ar")
        assert row["label"] != "nar.eos" or row["passes"] == 1
        for seed, value in row["scores"]["chrf"]["values"].items():
            file = Path(f"runs/compare-tiny/outputs/{row['system']}.seed{seed}.{row['label']}.txt")
            texts = file.read_text(encoding="utf-8").split("\n")[:-1]
            assert len(texts) == 8
            assert score(texts, [references], ["chrf"])[0].value == pytest.approx(value)
    assert max(value for row in results["rows"] for value in row["scores"]["chrf"]["values"].values()) > 0
    svg = Path("runs/compare-tiny/comparison.svg").read_text()
    assert "decoder passes a sentence" in svg
    assert re.search(r">\s*cmlm\s*<", svg)


def test_trainings_are_judged_by_the_text_that_they_were_trained_on(compare: Janus, shell: Janus) -> None:
    """Also when they are continued without naming it; not by what lies in the usual place."""
    assert shell("preprocess", "--recipe", "tiny.yaml", "--out", "elsewhere")[0] == 0
    edit_json("elsewhere/manifest.json", target_text={"words": 9.0, "characters": 9.0, "unspaced": 1.0})
    assert compare(*AR, "--steps", "2", "--prepared", "elsewhere")[0] == 0
    assert compare(*AR, "--steps", "3")[0] == 0
    assert found()["scoring"]["metric"] == "chrf"


def test_a_damaged_draft_head_matters_only_where_it_drafts(compare: Janus) -> None:
    command = ("--objectives", "ar", "--steps", "1", "--modes")
    assert compare(*command, "ar.beam1")[0] == 0
    (folder,) = Path("runs/compare-tiny").glob("ar.seed*/checkpoints/last")
    (folder / "draft-head.safetensors").touch()
    ends(compare(*command, "ar.beam1,ar.beam2"), 0)


def test_the_same_command_continues_and_a_larger_budget_trains_further(compare: Janus) -> None:
    command = ("--objectives", "ar,cmlm", "--modes", "ar.beam1,nar1.lb1", "--steps")
    assert compare(*command, "2")[0] == 0
    first, written = found(), outputs()
    err = ends(compare(*command, "2"), 0, "more --steps trains on")
    assert "--allow-change" not in err
    assert outputs() == written, "nothing is decoded again"
    for more in ([], ["--dry-run"]):
        code, _, err = compare(*command, "2", "--set", "model.width=32", *more)
        assert code == 4
        assert "ar.seed1: runs/compare-tiny/ar.seed1 was trained with model.width 16, not 32" in err
        assert "--force to restart" in err
    assert found()["rows"] == first["rows"]
    assert compare(*command, "4")[0] == 0
    assert [each["training"]["updates"] for each in found()["systems"]] == [4, 4]
    assert "not the same budget" not in TABLE.read_text()
    out = printed(compare(*command, "3"))
    assert "not the same budget: ar.seed1" in out
    assert "3 updates each (but where the table says otherwise)" in out
    assert '"kind": "resumed", "step": 2' in Path("runs/compare-tiny/ar.seed1/log.jsonl").read_text()


def test_a_new_system_gets_the_data_of_the_others(compare: Janus, shell: Janus) -> None:
    """Else its outputs would be scored against the references of another text."""
    assert shell("preprocess", "--recipe", "tiny.yaml", "--seed", "7", "--out", "other")[0] == 0
    assert compare(*AR, "--steps", "1", "--prepared", "other")[0] == 0
    assert compare("--objectives", "ar,cmlm", "--modes", "ar.beam1,nar1.lb1", "--steps", "1")[0] == 0
    prints = [
        read_json(f"runs/compare-tiny/{name}.seed1/manifest.json")["splits"]["test"]["fingerprint"]
        for name in ("ar", "cmlm")
    ]
    assert prints[0] == prints[1]
    shell("preprocess", "--recipe", "tiny.yaml", "--out", "usual")
    code, _, err = compare("--objectives", "ar,bang", "--steps", "1", "--prepared", "usual")
    assert (code, "do not have the same test split" in err) == (3, True), err


def test_two_at_once_do_not_share_a_folder(compare: Janus) -> None:
    assert compare(*AR, "--steps", "1")[0] == 0
    before = outputs()
    with locked(Path("runs/compare-tiny/.lock"), lambda holder: None):
        code, _, err = compare(*AR, "--steps", "2", "--force")
    assert (code, "runs/compare-tiny is in use by" in err) == (7, True), err
    assert outputs() == before


def test_a_mean_that_is_there_stays_with_its_draft_head(compare: Janus) -> None:
    words = (*AR, "--steps", "4", "--set", "training.save_every=1", "--average", "2")
    assert compare(*words)[0] == 0
    mean = Path("runs/compare-tiny/ar.seed1/checkpoints/average-last2")
    (mean / "draft-head.safetensors").write_bytes(b"mine")
    assert compare(*words)[0] == 0
    assert (mean / "draft-head.safetensors").read_bytes() == b"mine"


def test_what_a_smaller_table_loses_is_said(compare: Janus) -> None:
    both = ("--modes", "ar.beam1", "--steps", "2", "--objectives")
    assert compare(*both, "ar,janus")[0] == 0
    ends(compare(*both, "janus"), 0, "no longer has ar ar.beam1")
    assert "no longer has" not in compare(*both, "ar,janus")[2]
    assert len(found()["rows"]) == 2
    edit_json(TABLE.with_suffix(".json"), rows=[{**row, "speed": {"p50": 1}} for row in found()["rows"]])
    err = compare(*both, "janus", "--force")[2]
    assert "no longer has ar ar.beam1" in err
    assert "no longer has speeds" in err
    edit_json(TABLE.with_suffix(".json"), rows=[{**row, "seeds": [1, 7]} for row in found()["rows"]])
    assert "janus ar.beam1 (seed 7)" in compare(*both, "janus")[2]


def test_texts_are_kept_for_the_same_weights_text_and_options_only(compare: Janus) -> None:
    command = ("--objectives", "ar", "--modes", "ar.beam5", "--steps", "2")
    assert compare(*command)[0] == 0
    file = Path("runs/compare-tiny/outputs/ar.seed1.ar.beam5.txt")
    written, when = file.read_text(), outputs()
    assert compare(*command)[0] == 0
    assert outputs() == when
    for damaged in ("x\n" * 8, written.partition("\n")[2]):
        file.write_text(damaged)
        assert compare(*command)[0] == 0
        assert file.read_text() == written
    when = outputs()
    assert compare(*command, "--force")[0] == 0
    assert file.read_text() == written
    assert all(now > when[name] for name, now in outputs().items())
    made_by = read_json(file.with_suffix(".json"))
    assert made_by["options"]["length_penalty"] == 1.0
    for changed in ({"options": {**made_by["options"], "length_penalty": 0.5}}, {"text": "another"}, {"sha256": "0"}):
        edit_json(file.with_suffix(".json"), **{**made_by, **changed})
        when = outputs()
        assert compare(*command)[0] == 0
        assert outputs()[file.name] > when[file.name], changed


def test_a_rate_that_falls_to_suit_the_updates_allows_no_more(compare: Janus) -> None:
    command = (*AR, "--set", "training.schedule=cosine", "--steps")
    assert compare(*command, "2")[0] == 0
    ends(compare(*command, "4"), 2, "ar.seed1 was trained for 2 updates, and its learning rate (cosine)")
    assert compare(*command, "4", "--force")[0] == 0


def test_the_table_says_in_what_a_training_was_not_equal(compare: Janus) -> None:
    code, out, err = compare(
        "--objectives", "ar,janus", "--steps", "4", "--modes", "ar.beam1", "--average", "5",
        "--set", "training.save_every=2", "--variant", "late: janus objective.kl_start=2 objective.kl_warmup=4",
    )  # fmt: skip
    assert code == 0, err
    assert "late: in 4 updates its KLs come to 50% of their weights" in err
    assert "* late.seed1: KLs came to 50% of their weights" in out
    assert "janus.seed1: KLs" not in out
    assert "* ar.seed1: the mean of 2 checkpoints, all that there are" in out
    assert found()["systems"][0]["training"]["averaged"] == 2


def test_data_without_a_test_split_is_found_before_anything_is_trained(compare: Janus) -> None:
    assert compare(*AR, "--steps", "1")[0] == 0
    manifest = Path("data/tiny.src-tgt/manifest.json")
    files = read_json(manifest)["files"]
    del files["test.source.txt"]
    edit_json(manifest, files=files)
    for more in ([], ["--dry-run"]):
        ends(compare(*AR, "--steps", "1", "--out", "other", *more), 3, "has no test split, which a comparison decodes")
        assert not Path("other").exists()


@pytest.mark.parametrize(
    ("more", "thing"),
    [(["--prepared", "nowhere"], "nowhere"), (["--prepared", "nowhere", "--dry-run"], "nowhere"),
     (["--data-dir", "nowhere"], "nowhere"), (["--set", "tokenizer.vocabulary=50"], "tokenizer.vocabulary")],
)  # fmt: skip
def test_data_that_no_system_can_use_is_found_before_anything_is_trained(
    compare: Janus, more: list[str], thing: str
) -> None:
    assert compare("--objectives", "ar", "--dry-run")[0] == 0
    if "--set" in more:
        assert compare(*AR, "--steps", "1", "--out", "first")[0] == 0
    ends(compare("--objectives", "ar,cmlm", "--steps", "1", *more), 3, thing, "hint:", out="")
    assert not Path("runs").exists()


def test_text_that_cannot_be_prepared_is_read_once_not_for_every_system(compare: Janus) -> None:
    for split in ("train", "valid", "test"):
        for side in ("src", "tgt"):
            Path(f"{split}.{side}").touch()
    code, _, err = compare("--objectives", "ar,cmlm", "--seeds", "1,2", "--steps", "1", "--data-dir", ".")
    assert (code, err.count("preparing it first")) == (3, 1)


def test_minutes_are_an_equal_budget_too_and_json_is_printed_instead_of_the_table(compare: Janus) -> None:
    code, out, _ = compare(*AR, "--minutes", "0.01", "--json")
    assert (code, json.loads(out)) == (0, found())
    training = found()["systems"][0]["training"]
    assert 0.6 <= training["seconds"] < 5
    assert training["updates"] > 0  # how many, the machine decides
    assert "0.01 minutes of updates each" in TABLE.read_text()


def test_a_variant_may_have_updates_of_its_own_and_the_cost_of_each_is_told(compare: Janus) -> None:
    """So that systems whose updates cost differently can be compared at equal cost."""
    systems = ("--objectives", "ar,janus", "--variant", "longer: ar training.updates=0x8 training.schedule=cosine")
    for _ in range(2):  # the second call continues, and finds nothing to do
        out = printed(compare(*systems, "--steps", "4", "--modes", "ar.beam1"))
        assert "not the same budget" not in out
        assert "4 updates each (but where the table says otherwise)" in out
    ar, janus, longer = (each["training"] for each in found()["systems"])
    assert [each["updates"] for each in (ar, janus, longer)] == [4, 4, 8]
    assert 1.5 * ar["flops"] < longer["flops"] < 2.5 * ar["flops"]
    assert janus["flops"] > 2 * ar["flops"]
    assert "TFLOP" in out


def test_what_is_scored_by_exact_match_is_scored_by_edit_distance_too(compare: Janus) -> None:
    ends(compare(*AR, "--steps", "2", "--metric", "exact"), 0)
    assert list(found()["rows"][0]["scores"]) == ["exact", "edit"]


def test_all_rows_are_timed_in_turn_and_what_fails_says_why(compare: Janus) -> None:
    modes = ("--modes", "ar.beam1,spec.redraft-ar", "--speed")
    code, out, err = compare("--objectives", "ar,cmlm,janus", "--steps", "2", *modes)
    assert code == 1
    assert err.index("cmlm will be trained, but not decoded") < err.index("[1 of 3]")
    assert "1 of the rows failed" in err
    assert "failed: cmlm.seed1 decoding" in out, "it has no such mode"
    results = found()
    assert names(results) == ["ar ar.beam1", "janus ar.beam1", "janus spec.redraft-ar"]
    for row in results["rows"]:
        assert row["speed"]["p50"]["median"] > 0
        assert row["speed"]["sentences_per_second"]["lowest"] <= row["speed"]["sentences_per_second"]["median"]
    assert "one by one, ms" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "2", "--minutes", "1"], "--steps and --minutes exclude each other"),
        (["--objectives", "ar,transfomer"], "no such objective: transfomer"),
        (["--from", "nowhere"], "nowhere is not a run"),
        (["--variant", "glance objective.glance=0.3"], "is not NAME: OBJECTIVE KEY=VALUE"),
        (["--variant", "glance:"], "is not NAME: OBJECTIVE KEY=VALUE"),
        (["--variant", "a/b: janus"], "is not NAME: OBJECTIVE KEY=VALUE"),
        (["--variant", "glance: janus objective.glans=0.3"], "objective.glans"),
        (["--variant", "long: ar training.minutes=9"], "minutes are the same for all"),
        (["--variant", "long: ar training.updates=9", "--minutes", "1"], "long has updates of its own"),
        (["--variant", "long: ar training.updates=many"], "training.updates"),
        (["--variant", "long: ar training.updates=0x9", "--minutes", "1"], "long has updates of its own"),
        (["--objectives", "ar", "--variant", "AR: ar training.clip=1"], "two systems are called ar"),
        (["--objectives", "ar", "--against", "cmlm nar4.lb1"], "--against cmlm nar4.lb1: there will be no such row"),
        (["--seeds", "1,x"], "not a list of numbers"),
        (["--set", "training.update=3"], "did you mean updates"),
        (["--minutes", "1", "--variant", "c: ar training.schedule=cosine"], "must know the number of updates"),
        (["--average", "11"], "ar keeps its last 10 checkpoints"),
        (["--out", "theirs"], "holds no comparison"),
        (["--modes", "nar0"], "--modes nar0: there is no such row"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(compare: Janus, arguments: list[str], words: str) -> None:
    Path("theirs").mkdir()
    Path("theirs/letter.txt").write_text("dear")
    ends(compare(*arguments), 2, words, out="")
    assert not Path("runs").exists()
    if "--out" in arguments:
        assert compare(*arguments, "--dry-run")[0] == 2


def test_a_metric_whose_program_is_missing_is_refused_before_anything_is_trained(
    compare: Janus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)  # no Java, where METEOR itself is installed
    ends(compare(*AR, "--steps", "1", "--metric", "meteor"), 2, "error:", "hint:", out="")
    assert not Path("runs").exists()


def test_a_recipe_is_the_same_by_another_path(compare: Janus) -> None:
    assert compare(*AR, "--steps", "2")[0] == 0
    assert compare(*AR, "--steps", "2", "--recipe", str(Path("tiny.yaml").resolve()))[0] == 0
    Path("other.yaml").write_bytes(Path("tiny.yaml").read_bytes())
    assert compare(*AR, "--steps", "2", "--recipe", "other.yaml")[0] == 2


def test_a_row_does_not_need_the_log_of_its_training(compare: Janus) -> None:
    assert compare(*AR, "--steps", "2")[0] == 0
    before = found()["systems"][0]["training"]["parameters"]
    Path("runs/compare-tiny/ar.seed1/log.jsonl").unlink()
    assert compare(*AR, "--steps", "2")[0] == 0
    assert found()["systems"][0]["training"]["parameters"] == before


def test_a_dry_run_writes_nothing(compare: Janus) -> None:
    code, out, err = compare("--objectives", "ar,cmlm", "--dry-run")
    assert (code, out) == (0, "")
    assert "ar.seed1: begins in runs/compare-tiny/ar.seed1" in err
    assert "2,000 updates each" in err
    assert not Path("runs").exists()


def test_variants_are_systems_of_their_own(compare: Janus) -> None:
    """Each has a run with its knobs, rows under its name, and a note that says what it changes."""
    first = (*AR, "--steps", "2", "--out", "base")
    assert compare(*first)[0] == 0
    command = (
        "--objectives", "ar", "--variant", "glance: janus objective.glance=0.5 'objective.noise={full: 1.0}'",
        "--steps", "2", "--modes", "ar.beam1,nar1.lb1", "--from", "base/ar.seed1",
    )  # fmt: skip
    out = printed(compare(*command))
    assert names(found()) == ["ar ar.beam1", "glance ar.beam1", "glance nar1.lb1"]
    assert "* glance: janus with objective.glance=0.5 objective.noise={full: 1.0}" in out
    origin = Path("base/ar.seed1/checkpoints/best").resolve()
    assert f"* glance.seed1 began with the weights of {origin}" in out
    run = Path("runs/compare-tiny/glance.seed1")
    recipe = recipe_load.load(str(run / "recipe.yaml"))
    assert isinstance(recipe.objective, JanusObjective)
    assert (recipe.objective.glance, recipe.objective.noise.full) == (0.5, 1.0)
    assert "from" in read_json(run / "manifest.json")
    assert compare(*command)[0] == 0  # what exists already is kept
    assert compare(*command[:-2])[0] == 0  # nothing new is asked for
    for more in (["--objectives", "ar,janus"], ["--from", "runs/compare-tiny/glance.seed1"]):
        ends(compare(*first[:-2], *more), 2, f"not all would begin with the same weights: ar.seed1 with {origin}")


def test_the_table_is_that_of_one_after_the_other(compare: Janus) -> None:
    what = ("--objectives", "ar,cmlm", "--steps", "3", "--average", "2", "--set", "training.save_every=1", *MODES)
    err = ends(compare(*what, "--out", "together", "--jobs", "2"), 0)
    assert err.count("is finished after 3 updates") == 2
    assert set(outputs("together")) == {
        f"{row}.{kind}" for row in ("ar.seed1.ar.beam1", "cmlm.seed1.nar4.lb1") for kind in ("txt", "json")
    }
    assert compare(*what, "--out", "apart")[0] == 0
    assert found("together")["rows"] == found("apart")["rows"]
    for system in ("ar", "cmlm"):
        last = Path(f"{system}.seed1/checkpoints/step-000003")
        assert processes.digest("together" / last) == processes.digest("apart" / last)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_training_that_fails_is_a_row_that_says_why(compare: Janus, jobs: str) -> None:
    code, out, err = compare("--objectives", "ar", "--variant", BROKEN, "--steps", "9", "--jobs", jobs, *MODES)
    assert code == 1
    assert "1 of the rows failed" in err
    assert "failed: broken.seed1 training" in out
    assert ("tried once more" in err) == (jobs == "2")
    assert names(found()) == ["ar ar.beam1"]


def test_forced_trainings_that_fail_do_not_leave_the_old_ones_in_the_table(compare: Janus, tiny_recipe: Path) -> None:
    command = ("--objectives", "ar", "--variant", "wide: ar model.width=24", "--steps", "2", "--jobs", "2", *MODES)
    start = processes.go(tiny_recipe, "start", "training.updates=1").parent
    assert compare(*command)[0] == 0
    assert names(found()) == ["ar ar.beam1", "wide ar.beam1"]
    code, out, err = compare(*command, "--force", "--from", str(start))
    assert code == 1
    assert "failed: wide.seed1 training" in out
    assert "wide.seed1 ended with exit code 1" in err
    assert names(found()) == ["ar ar.beam1"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_signal_reaches_every_training_and_each_saves(tiny_recipe: Path, jobs: int) -> None:
    process = processes.janus(*QUICK, "--objectives", "ar,cmlm", "--steps", "100000", "--jobs", str(jobs))
    logs = [Path(f"runs/compare-tiny/{name}.seed1/log.jsonl") for name in ("ar", "cmlm")][:jobs]
    until = time.monotonic() + 100
    while not all(log.is_file() and b'"train"' in log.read_bytes() for log in logs):
        assert process.poll() is None, processes.ended(process)
        assert time.monotonic() < until
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said = ends(processes.ended(process), 128 + signal.SIGTERM, "hint: the same command continues")
    assert "every training that ran was saved" in said or jobs == 1
    assert "Traceback" not in said
    assert "rows" not in found()
    for log in logs:
        saved, stopped = (json.loads(line) for line in log.read_text().splitlines()[-2:])
        assert (saved["kind"], stopped["kind"]) == ("saved", "stopped")
        assert (log.parent / f"checkpoints/step-{stopped['step']:06}").is_dir()


def test_a_bench_that_is_stopped_keeps_nothing_and_says_so(trained: Path) -> None:
    process = processes.janus("bench", "run", "--mode", "ar.beam1", "--repeats", "100000", "--device", "cpu")
    processes.read_until(process, "quality on")
    process.send_signal(signal.SIGTERM)
    said = ends(processes.ended(process), 128 + signal.SIGTERM, "hint: nothing is kept")
    assert "Traceback" not in said
    assert not Path("run/bench").exists()
