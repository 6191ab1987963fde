"""`janus draft-head`: a small file beside the checkpoint's weights, which changes no output."""

import shlex
import shutil
from functools import partial
from pathlib import Path

import pytest

import janus_cli
from tests.helpers import Janus, ends, parsed

STEPS = Path("runs/janus/checkpoints")
FILE = "draft-head.safetensors"


@pytest.fixture
def draft_head(any_janus: Janus) -> Janus:
    return partial(any_janus, "draft-head")


def test_it_changes_no_output(draft_head: Janus, any_janus: Janus) -> None:
    spec = "decode", "runs/janus", "--mode", "spec", "--out"
    greedy = any_janus("decode", "runs/janus", "--mode", "ar", "--beam", "1", "--out", "greedy.txt")
    assert (greedy[0], any_janus(*spec, "before.txt")[0]) == (0, 0)
    err = ends(draft_head("runs/janus"), 0, out="")
    assert str(STEPS / "step-000002" / FILE) in err.replace("\n", "")
    assert any_janus(*spec, "after.txt")[0] == 0
    texts = {Path(f"{name}.txt").read_bytes() for name in ("greedy", "before", "after")}
    assert len(texts) == 1


def test_a_head_that_is_not_used_is_told(draft_head: Janus, any_janus: Janus) -> None:
    spec = "decode", "runs/janus", "--mode", "spec", "--out", "x.txt", "--force"
    in_bf16 = *spec, "--precision", "bf16"
    assert "draft head" not in any_janus(*in_bf16)[2]
    assert draft_head("runs/janus")[0] == 0
    assert "draft head" not in any_janus(*spec)[2]
    err = ends(any_janus(*in_bf16), 0)
    assert any("warning:" in line and "draft head" in line for line in err.split("\n"))


def test_commands_name_the_run_as_the_user_did(draft_head: Janus, any_janus: Janus) -> None:
    spec = "decode", "janus", "--mode", "spec", "--out", "x.txt", "--force", "--checkpoint", "step-000001"
    told = any_janus(*spec)[2]
    made = draft_head("janus", "--checkpoint", "step-000001")[2]
    (STEPS / "step-000001" / FILE).write_bytes(b"damaged")
    refused = any_janus(*spec)[2]
    for err, verb in (told, "draft-head"), (made, "decode"), (refused, "draft-head"):
        words = shlex.split(err[err.index(f"janus {verb}") :].splitlines()[0])[2:]
        given = parsed(verb, *words)
        assert (given["run_option"], given["checkpoint"]) == (Path("runs/janus"), Path("step-000001"))


def test_a_model_without_lengths_cannot_draft_whatever_its_recipe_says(draft_head: Janus, any_janus: Janus) -> None:
    assert any_janus("export", "runs/ar", "--set", "decoding.redraft=source", "--out", "copies")[0] == 0
    ends(draft_head("copies"), 2, "--mode spec")


def test_the_same_call_makes_the_same_file(draft_head: Janus) -> None:
    file = STEPS / "last" / FILE
    assert draft_head()[0] == 0
    first = file.read_bytes()
    ends(draft_head(), 2, "--force")
    assert draft_head("--force")[0] == 0
    assert file.read_bytes() == first


def test_other_text_can_be_drafted_for(draft_head: Janus) -> None:
    shutil.rmtree("data/demo")
    Path("some.txt").write_text("a b c\n\nd e f g\n", encoding="utf-8")
    assert draft_head()[0] != 0
    assert not (STEPS / "last" / FILE).exists()
    assert draft_head("--source", "some.txt")[0] == 0
    Path("empty.txt").write_text("\n", encoding="utf-8")
    assert draft_head("--source", "empty.txt", "--force")[0] == 3


def test_a_head_of_other_weights_or_a_damaged_one_is_refused(draft_head: Janus, any_janus: Janus) -> None:
    assert draft_head("--checkpoint", "step-000001")[0] == 0
    for damage in (b"", b"no tensors"):
        shutil.copy(STEPS / "step-000001" / FILE, STEPS / "step-000002" / FILE)
        if damage:
            (STEPS / "step-000002" / FILE).write_bytes(damage)
        decode = ("decode", "runs/janus", "--checkpoint", "step-000002", "--out", "x.txt", "--force")
        assert any_janus(*decode)[0] == 0, "other modes do not read it"
        export = "export", "runs/janus", "--checkpoint", "step-000002", "--force", "--out", "x"
        assert any_janus(*export)[0] == 0, "weights alone"
        assert any_janus(*export, "--format", "onnx")[0] == 4
        ends(any_janus(*decode, "--mode", "spec"), 4, FILE, "janus draft-head")
    assert draft_head("--checkpoint", "step-000002", "--force")[0] == 0


def test_python_drafts_with_it_too(draft_head: Janus) -> None:
    published = Path(__file__).parents[2] / "pretrained" / "translit-enru"
    shutil.copytree(published, "names")
    names = (published / "test.source.txt").read_text(encoding="utf-8").splitlines()[:600]
    Path("some.txt").write_text("\n".join(names), encoding="utf-8")
    code, _, err = draft_head("names")
    assert (code, "--source" in err) == (3, True), "its training data is not here"
    passes = []
    for head in (False, True):
        assert not head or draft_head("names", "--source", "some.txt")[0] == 0
        results = janus_cli.load("names").translate(names[:30], mode="spec")
        passes.append(sum(result.passes for result in results))
    assert passes[1] < passes[0]


@pytest.mark.parametrize("run", ["ar", "cmlm"])
def test_a_model_that_cannot_draft_or_verify_is_refused(draft_head: Janus, run: str) -> None:
    ends(draft_head(f"runs/{run}"), 2, "spec")


def test_little_text_is_warned_of(draft_head: Janus) -> None:
    Path("few.txt").write_text("a b\nc d\n", encoding="utf-8")
    ends(draft_head("--source", "few.txt", "--force"), 0, "warning: 2 sentences")
