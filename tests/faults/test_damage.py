"""Runs that exploded, were copied oddly, edited, or killed half-way: said in words, with the right exit code."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from processes import digest, ended, entries, go, relabel, state
from processes import janus as child
from safetensors.torch import load_file, save_file

import janus_cli
from janus_cli import files, world
from janus_cli.core.model import Transformer
from janus_cli.data import store
from janus_cli.data.store import StoreWriter
from janus_cli.errors import CheckpointError, is_about_memory
from janus_cli.training import checkpoint, run
from tests.helpers import Janus, Patch, ends

RUN, ROOT = Path("run"), Path("run/checkpoints")
MORE = ("--set", "training.updates=7", "--allow-change", "training.updates")
TRAIN = ("train", "--recipe", "tiny.yaml", "--device", "cpu")
RESUME = ("train", "--resume", "run", "--device", "cpu")
DECODE = ("decode", "run", "--input", "-", "--device", "cpu")


# Weights that are not finite


@pytest.mark.parametrize("saving", [2, 100])
def test_weights_that_explode_in_an_update_are_neither_saved_nor_validated(
    tiny_recipe: Path, janus: Janus, saving: int
) -> None:
    every = ("--set", f"training.save_every={saving}", "--set", "training.validate_every=4")
    err = ends(janus(*TRAIN, "--run", "run", "--set", "training.learning_rate=1e308", *every), 5, "not finite", out="")
    assert "done" not in err
    assert list(ROOT.iterdir()) == []
    assert entries(RUN / "log.jsonl", "valid", "saved", "done") == []


def test_they_push_no_good_checkpoint_out(trained: Path, janus: Janus) -> None:
    before = {path.name for path in trained.iterdir()}
    explode = ("--set", "training.learning_rate=1e308", "--allow-change", "training.learning_rate")
    keep = ("--set", "training.keep_last=1", "--allow-change", "training.keep_last")
    ends(janus(*RESUME, *MORE, *explode, *keep), 5, "earlier checkpoints are untouched")
    assert {path.name for path in trained.iterdir()} == before
    assert (trained / "last").readlink().name == "step-000006"


def test_a_series_of_skipped_updates_pushes_no_good_checkpoint_out(trained: Path, janus: Janus) -> None:
    """The weights are finite, and what they compute is not."""
    explode = ("training.learning_rate=1e30", "training.updates=60", "training.save_every=1", "training.keep_last=2",
               "training.keep_best=0", "training.validate_every=100")  # fmt: skip
    changes = [word for change in explode for word in ("--set", change, "--allow-change", change.partition("=")[0])]
    ends(janus(*RESUME, *changes), 5, "updates in a row without a finite gradient")
    first = entries(RUN / "log.jsonl", "skipped")[0]["step"]
    assert [checkpoint.step_of(folder) for folder in checkpoint.steps(trained)] == [first - 2, first - 1]


@pytest.mark.parametrize("how", [("--beam", "5"), ("--beam", "1"), ("--beam", "5", "--engine", "torch")])
def test_a_model_that_computes_no_probabilities_says_so(trained: Path, janus: Janus, how: tuple[str, ...]) -> None:
    for folder in {(trained / name).resolve() for name in ("last", "best")}:
        file = folder / "model.safetensors"
        save_file({key: value * 1e30 for key, value in load_file(file).items()}, file)
        relabel(folder)
    ends(janus(*DECODE, "--mode", "ar", *how, stdin=b"ba\n"), 5, "has diverged", out="")
    ends(janus("report", "run"), 0)
    assert "has diverged" in Path("run/report.html").read_text(encoding="utf-8")


def test_a_recipe_that_was_edited_is_compared_with_that_of_the_checkpoint(trained: Path, janus: Janus) -> None:
    file = RUN / "recipe.yaml"
    text = file.read_text()
    assert "is not that of the checkpoint" not in ends(janus(*RESUME, *MORE), 0)
    file.write_text(file.read_text().replace("label_smoothing: 0.1", "label_smoothing: 0.4"))
    more = ("--set", "training.updates=8", "--allow-change", "training.updates")
    ends(janus(*RESUME, *more), 0, "not that of the checkpoint of update 7: objective.label_smoothing 0.1, now 0.4")
    file.write_text(text[: text.index("training:")])  # cut off where it is YAML still
    ends(janus(*RESUME, "--dry-run"), 0, "not that of the checkpoint", "training.batch_tokens")


def test_a_run_that_is_started_over_does_not_go_on_with_its_old_recipe(
    trained: Path, janus: Janus, monkeypatch: Patch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    over = (*TRAIN, "--run", "run", "--set", "training.learning_rate=0.5")
    with monkeypatch.context() as patch:
        patch.setattr(run.shutil, "rmtree", stop)
        ends(janus(*over, "--force"), 130)
    ends(janus(*RESUME), 2, "run")
    ends(janus(*over, "--force"), 0)
    assert "learning_rate: 0.5" in (RUN / "recipe.yaml").read_text()


def test_a_log_that_ends_in_half_a_line_loses_no_other(trained: Path, janus: Janus) -> None:
    file = RUN / "log.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    ends(janus(*RESUME, *MORE), 0)
    *before, resumed = file.read_text().split('{"kind": "resumed"')[0], file.read_text().split('{"kind": "resumed"')[1]
    assert before[0].endswith("\n")
    assert resumed.count("\n") > 1


# Another tokenizer


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def swap_pieces(file: Path) -> None:
    """Another tokenizer of equal size, which loads: two pieces of one length change places."""
    model = sentencepiece.SentencePieceProcessor(model_proto=file.read_bytes())
    pieces = [model.id_to_piece(number).encode() for number in range(5, model.get_piece_size())]
    first = next(piece for piece in pieces if sum(len(other) == len(piece) for other in pieces) > 1)
    second = next(other for other in pieces if len(other) == len(first) and other != first)
    fields = [bytes([10, len(piece)]) + piece for piece in (first, second)]  # as protocol buffers hold text
    middle = b"\n" + bytes(len(first) + 1)
    data = file.read_bytes().replace(fields[0], middle).replace(fields[1], fields[0]).replace(middle, fields[1])
    assert data != file.read_bytes()
    file.write_bytes(data)


def rename_joiner(file: Path) -> None:
    file.with_name("tokenizer.json").write_text(file.with_name("tokenizer.json").read_text().replace('""', '"@@"'))


USES = {
    "decode": DECODE,
    "distill": ("distill", "run", "--device", "cpu"),
    "export": ("export", "run", "--out", "exported"),
    "resume": RESUME,
    "more updates": (*RESUME, *MORE),
    "inspect": ("inspect", "run"),
    "bench": ("bench", "run", "--device", "cpu", "--mode", "ar"),
    "report": ("report", "run", "--device", "cpu"),
    "from": (*TRAIN, "--run", "other", "--from", "run"),
}


@pytest.mark.parametrize("change", [flip, swap_pieces, rename_joiner])
@pytest.mark.parametrize("use", USES)
def test_another_tokenizer_is_refused_wherever_one_is_used(
    trained: Path, janus: Janus, use: str, change: Callable[[Path], None]
) -> None:
    change(RUN / "tokenizer.model")
    err = ends(janus(*USES[use], stdin=b"ba\n"), 4)
    assert "run/tokenizer." in err or "run has another tokenizer" in err
    with pytest.raises(CheckpointError, match=r"run/tokenizer\."):
        janus_cli.load("run")


def test_a_checkpoint_knows_its_tokenizer_whatever_the_run_says(trained: Path, janus: Janus) -> None:
    swap_pieces(RUN / "tokenizer.model")
    about = json.loads((RUN / "manifest.json").read_bytes())
    for name in ("tokenizer.json", "tokenizer.model"):
        about["files"][name] = checkpoint._describe(RUN / name)
    (RUN / "manifest.json").write_text(json.dumps(about))
    code, _, err = janus(*DECODE, stdin=b"ba\n")
    assert (code, "run/tokenizer.model is not the tokenizer that the checkpoint was trained with" in err) == (4, True)


def test_inspect_of_a_run_names_damaged_weights(trained: Path, janus: Janus) -> None:
    assert "damaged" not in janus("inspect", "run")[1]
    weights = (ROOT / "last" / "model.safetensors").resolve()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    found = json.loads(janus("inspect", "run", "--json")[1])["checkpoints"]
    assert "model.safetensors is damaged" in found[weights.parent.name]


def test_runs_that_noted_no_sha256_go_on(trained: Path, janus: Janus) -> None:
    _, expected, _ = janus(*DECODE, stdin=b"ba\n")
    about = json.loads((RUN / "manifest.json").read_bytes())
    del about["files"]["tokenizer.model"], about["files"]["tokenizer.json"]
    (RUN / "manifest.json").write_text(json.dumps(about))
    for folder in checkpoint.steps(trained):
        values = state(folder)
        del values["tokenizer"]
        (folder / "state.json").write_text(json.dumps(values))
        relabel(folder)
    assert janus(*DECODE, stdin=b"ba\n")[:2] == (0, expected)
    assert janus(*RESUME, *MORE)[0] == 0


def test_an_export_and_a_reused_tokenizer_are_checked(trained: Path, janus: Janus) -> None:
    assert janus("export", "run", "--out", "exported")[0] == 0
    assert "tokenizer.model" in json.loads(Path("exported/manifest.json").read_bytes())["files"]
    decode = ("decode", "--checkpoint", "exported", "--input", "-", "--device", "cpu")
    assert janus(*decode, stdin=b"ba\n")[0] == 0
    swap_pieces(Path("exported/tokenizer.model"))
    ends(janus(*decode, stdin=b"ba\n"), 4, "exported/tokenizer.model")
    swap_pieces(RUN / "tokenizer.model")
    code, _, err = janus("preprocess", "--recipe", "tiny.yaml", "--set", "tokenizer.reuse=run", "--out", "new")
    assert (code, "run/tokenizer.model was changed" in err) == (3, True)


# Variables of torchrun in the environment


def environment(patch: Patch, values: dict[str, str]) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        patch.delenv(name, raising=False)
    for name, value in values.items():
        patch.setenv(name, value)


HERE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
STRAY = [
    ("RANK", {"RANK": "1"}),
    ("RANK", {"RANK": "x"}),
    ("RANK", {"RANK": "-1", "WORLD_SIZE": "2", **HERE}),
    ("RANK", {"WORLD_SIZE": "2"}),
    ("RANK", {"RANK": "2", "WORLD_SIZE": "2", **HERE}),
    ("RANK is 3, but WORLD_SIZE is 2", {"RANK": "3", "WORLD_SIZE": "2"}),
    ("WORLD_SIZE", {"WORLD_SIZE": "x"}),
    ("WORLD_SIZE", {"WORLD_SIZE": "0"}),
    ("WORLD_SIZE", {"WORLD_SIZE": "-1"}),
    ("WORLD_SIZE", {"WORLD_SIZE": "9" * 5000}),
    ("MASTER_ADDR", {"RANK": "0", "WORLD_SIZE": "2"}),
    ("MASTER_PORT", {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}),
    ("MASTER_PORT", {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}),
    ("LOCAL_RANK", {"LOCAL_RANK": "1"}),
    ("LOCAL_RANK", {"LOCAL_RANK": "1.5"}),
]


@pytest.mark.parametrize(("name", "values"), STRAY)
def test_variables_that_are_there_by_accident_are_named(
    tiny_recipe: Path, janus: Janus, monkeypatch: Patch, name: str, values: dict[str, str]
) -> None:
    environment(monkeypatch, values)
    commands = [TRAIN] if name == "MASTER_PORT" else [TRAIN, ("compare", "--recipe", "tiny.yaml")]
    for command in commands:
        ends(janus(*command), 2, name, "unset RANK WORLD_SIZE LOCAL_RANK", out="")
    assert [path.name for path in Path().iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize("values", [{"RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, {"RANK": ""}])
def test_variables_of_one_process_do_no_harm(
    tiny_recipe: Path, janus: Janus, monkeypatch: Patch, values: dict[str, str]
) -> None:
    environment(monkeypatch, values)
    assert janus(*TRAIN, "--run", "run", "--set", "training.updates=1")[0] == 0


def test_two_ranks_do_not_share_a_gpu(tiny_recipe: Path, janus: Janus, monkeypatch: Patch) -> None:
    environment(monkeypatch, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", **HERE})
    monkeypatch.setattr(world, "choose_device", lambda name, _: torch.device(name))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    ends(janus("train", "--recipe", "tiny.yaml", "--device", "cuda:0"), 2, "cuda:0 is one GPU")


def pretend_ranks(patch: Patch, others: float) -> None:
    """Two ranks, of which the other one says `others` to whatever is summed."""
    patch.setattr(world.World, "sums", lambda _, values: {name: each + others for name, each in values.items()})
    patch.setattr(run, "start_world", lambda _: world.World(0, 2, torch.device("cpu")))


@pytest.mark.parametrize("others", [0, 1])
def test_ranks_that_would_compute_in_two_precisions_do_not_begin(
    tiny_recipe: Path, janus: Janus, monkeypatch: Patch, others: int
) -> None:
    pretend_ranks(monkeypatch, others)
    monkeypatch.setattr(world, "_multiplies_bf16", lambda: not others)
    ends(janus(*TRAIN, "--run", "run", "--set", "training.precision=auto"), 2, "training.precision")
    assert [path.name for path in Path().iterdir()] == ["tiny.yaml"]


def test_flex_attention_does_not_train_on_a_cpu(tiny_recipe: Path, janus: Janus) -> None:
    ends(janus(*TRAIN, "--run", "run", "--set", "model.attention=flex"), 2, "model.attention")
    assert [path.name for path in Path().iterdir()] == ["tiny.yaml"]


GONE = "[/x/gloo/transport/tcp/pair.cc:446] Connection closed by peer [::1]:9"


@pytest.mark.parametrize(
    ("problem", "code", "said"),
    [
        (RuntimeError(GONE), 1, f"rank 0 lost another rank: {GONE}"),
        (torch.distributed.DistBackendError("NCCL error: remote process exited or there was a network error"), 1,
         "lost"),
        (torch.distributed.DistBackendError("NCCL error: Cuda failure 2 'out of memory'"), 6, "memory"),
    ],
)  # fmt: skip
def test_a_rank_that_another_one_left_says_so(
    tiny_recipe: Path, janus: Janus, monkeypatch: Patch, problem: Exception, code: int, said: str
) -> None:
    def gone(_: object) -> bool:
        raise problem

    pretend_ranks(monkeypatch, 0)
    monkeypatch.setattr(run, "check_scoring", gone)
    found, _, err = janus(*TRAIN, "--run", "run")
    assert (found, said in err.replace("\n", " ")) == (code, True), err


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_that_waits_says_so_and_not_for_ever(
    tiny_recipe: Path, janus: Janus, monkeypatch: Patch, rank: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment(monkeypatch, {"RANK": rank, "WORLD_SIZE": "3", **here})
    monkeypatch.setattr(world, "MEETING", timedelta(seconds=1.5))
    monkeypatch.setattr(world, "SILENCE", 0.2)
    code, _, err = janus(*TRAIN)
    assert code == 2, err
    assert f"rank {rank}: waiting up to 2 s for 2 other ranks at 127.0.0.1:{port}" in err
    assert f"rank {rank} of 3 (RANK, WORLD_SIZE) did not meet 2 other ranks" in err


# Copies


def test_a_run_that_was_copied_with_its_links_followed_goes_on(trained: Path, janus: Janus) -> None:
    _, expected, _ = janus(*DECODE, stdin=b"ba\n")
    shutil.copytree("run", "copy")
    shutil.rmtree("run")
    Path("copy").rename("run")
    assert not (trained / "last").is_symlink()
    assert janus(*DECODE, stdin=b"ba\n")[:2] == (0, expected)
    ends(janus(*RESUME, *MORE), 0)
    assert [(trained / link).is_symlink() for link in ("last", "best")] == [True, True]
    assert (trained / "last").readlink().name == "step-000007"
    assert not list(trained.glob(".*"))


def test_a_best_checkpoint_that_is_gone_is_told(trained: Path, janus: Janus) -> None:
    (trained / "best").unlink()
    (trained / "best").symlink_to("step-000005")
    ends(janus(*DECODE, stdin=b"ba\n"), 0, "leads to a checkpoint that is gone: taking step-000006")


def test_a_run_that_was_copied_without_its_links_has_its_checkpoints(trained: Path, janus: Janus) -> None:
    best = (trained / "best").readlink().name
    _, expected, _ = janus(*DECODE, stdin=b"ba\n")
    for link in ("last", "best"):
        (trained / link).unlink()
    ends(janus(*DECODE, stdin=b"ba\n"), 0, f"has lost its links: taking {best}", out=expected)
    assert "taking step-000006" in janus(*DECODE, "--checkpoint", "last", stdin=b"ba\n")[2]
    assert janus(*TRAIN, "--run", "other", "--from", "run", "--set", "training.updates=1")[0] == 0
    shutil.rmtree(trained / best)
    if best != "step-000006":
        assert "taking step-000006" in janus(*DECODE, stdin=b"ba\n")[2]
    assert janus(*RESUME, *MORE)[0] == 0
    assert (trained / "last").readlink().name == "step-000007"


# JSON


def edited(file: Path, *keys: str | int, value: Any) -> None:
    """Changes one value deep in a file."""
    about = json.loads(file.read_bytes())
    inner = about
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    file.write_text(json.dumps(about))


DEEP = "[" * 200_000 + "]" * 200_000
STATE, RECIPE = "step-000006/state.json", "step-000006/recipe.yaml"
LAST = (*DECODE, "--checkpoint", "last")
DATA = Path("data/tiny.src-tgt/manifest.json")


def in_state(key: str, value: Any) -> Callable[[], None]:
    """With a hash that is right."""

    def change() -> None:
        edited(ROOT / STATE, key, value=value)
        relabel(ROOT / "step-000006")

    return change


def text(file: Path, content: str) -> Callable[[], None]:
    def change() -> None:
        file.write_text(content)
        if file.parent.name.startswith("step-") and file.name != "manifest.json":
            relabel(file.parent)

    return change


def grown(old: str, new: str) -> Callable[[], None]:
    def change() -> None:
        recipe = (ROOT / RECIPE).read_text()
        assert old in recipe
        text(ROOT / RECIPE, recipe.replace(old, new))()

    return change


def remove_links(change: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        change()
        (ROOT / "best").unlink()

    return both


HOSTILE: list[tuple[Callable[[], None], tuple[str, ...], int, str]] = [
    (in_state("step", "60"), LAST, 4, "state.json is damaged: step should be a valid integer"),
    (in_state("batch", -7), LAST, 4, "state.json is damaged: batch should be"),
    (in_state("target_vocabulary", "x"), LAST, 4, "state.json is damaged: target_vocabulary"),
    (in_state("target_vocabulary", 10**9), LAST, 4, "model.safetensors is damaged"),
    (in_state("target_vocabulary", 10**12), LAST, 4, "state.json is damaged: target_vocabulary"),
    (grown("width: 16", "width: 1000000000"), LAST, 4, "step-000006"),
    (grown("encoder_layers: 1", "encoder_layers: 100000"), LAST, 4, "step-000006"),
    (text(ROOT / STATE, DEEP), LAST, 4, "state.json is damaged: it is nested too deeply"),
    (text(ROOT / STATE, "{}"), LAST, 4, "state.json is damaged: source_vocabulary is missing"),
    (text(ROOT / "step-000006/manifest.json", DEEP), LAST, 4, "manifest.json is damaged: it is nested too deeply"),
    (text(ROOT / "step-000006/manifest.json", "{}"), LAST, 4, "manifest.json is damaged: format is missing"),
    (text(ROOT / STATE, DEEP), ("inspect", "run/checkpoints/step-000006"), 4, "state.json is damaged"),
    (text(RUN / "manifest.json", ""), ("inspect", "run"), 4, "run/manifest.json is damaged"),
    (text(RUN / "manifest.json", DEEP), ("decode", "run"), 4, "run/manifest.json is damaged"),
    (text(RUN / "manifest.json", '{"files": {"test.source.txt": 1}}'), ("decode", "run"), 4, "files.test.source.txt"),
    (lambda: edited(RUN / "manifest.json", "prepared", value=3), RESUME, 4, "prepared should be"),
    (lambda: edited(RUN / "manifest.json", "from", value="x"), ("inspect", "run"), 4, "from should be"),
    (text(RUN / "tokenizer.json", DEEP), LAST, 4, "run/tokenizer.json is damaged"),
    (text(RUN / "tokenizer.json", '{"kind": [], "files": {}}'), LAST, 4, "run/tokenizer.json is damaged: kind"),
    (text(DATA, DEEP), (*TRAIN, "--run", "x"), 3, "manifest.json is damaged: it is nested too deeply"),
    (text(DATA, "{}"), ("inspect", "data/tiny.src-tgt"), 3, "manifest.json is damaged"),
    (lambda: edited(DATA, "splits", "train", "kept", value="9"), (*TRAIN, "--run", "x"), 3, "splits.train.kept"),
    (lambda: edited(DATA, "vocabulary", "source", value=-5), (*TRAIN, "--run", "x"), 3, "vocabulary.source"),
]


@pytest.mark.parametrize(("change", "command", "code", "words"), HOSTILE)
def test_hostile_json_is_named_and_nothing_is_built_of_it(
    trained: Path, janus: Janus, monkeypatch: Patch, change: Callable[[], None], command: tuple[str, ...], code: int,
    words: str,
) -> None:  # fmt: skip
    change()
    for owner, name in ((Transformer, "__init__"), (checkpoint, "read_arrays")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("a model was built, or is to be"))
    err = ends(janus(*command, stdin=b"ba\n"), code, words, out="")
    assert len(err) < 3000


@pytest.mark.parametrize("use", USES)
def test_a_damaged_manifest_of_a_run_is_refused_wherever_it_is_read(trained: Path, janus: Janus, use: str) -> None:
    (RUN / "manifest.json").write_text("{}")
    ends(janus(*USES[use], stdin=b"ba\n"), 4, "run/manifest.json is damaged: files is missing")


HEADER = json.dumps(
    {"format": 3, "files": ["out"], "replace": [False], "checkpoint": "x", "sha256": "x", "options": {}}
)
DONE = '{"done": 1, "tokens": 2, "passes": 1, "seconds": 1}'
PARTIAL = [
    '{"format": 3}', DEEP, "[]", f"{HEADER}\n{DEEP}\n{DONE}", f'{HEADER}\n{{"done": "x"}}', f'{HEADER}\n{{"done": -1}}',
    f'{HEADER}\n{{"done": 1, "tokens": {DEEP}}}', HEADER.replace("[false]", "[1]"),
]  # fmt: skip


@pytest.mark.parametrize("content", PARTIAL)
def test_hostile_lines_of_a_partial_file(trained: Path, janus: Janus, content: str) -> None:
    Path("text").write_text("ba\n")
    Path(".out.partial").write_text(f"{content}\n")
    code, _, err = janus("decode", "run", "--input", "text", "--out", "out", "--device", "cpu", "--resume")
    assert code in (0, 3, 4), err
    assert code == 0 or ".out.partial" in err


# Memory


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def allocate(*_: object, **__: object) -> None:
    torch.empty(1 << 50)


@pytest.mark.parametrize(
    ("owner", "name", "fail"),
    [(np.lib.format, "open_memmap", full), (checkpoint, "safe_open", full), (checkpoint, "safe_open", allocate)],
)
def test_too_little_memory_is_no_damage(
    trained: Path, janus: Janus, monkeypatch: Patch, owner: Any, name: str, fail: Callable[..., None]
) -> None:
    monkeypatch.setattr(owner, name, fail)
    command = (*TRAIN, "--run", "other") if owner is not checkpoint else DECODE
    err = ends(janus(*command, stdin=b"ba\n"), 6, "not enough memory", out="")
    assert "damaged" not in err
    assert "--force" not in err


@pytest.mark.parametrize(
    "problem",
    [MemoryError(), OSError(errno.ENOMEM, "x"), torch.OutOfMemoryError("x"), RuntimeError("CUDA error: out of memory"),
     RuntimeError("could not create a primitive"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
     ImportError("libtorch_cpu.so: failed to map segment from shared object")],
)  # fmt: skip
def test_words_of_libraries_that_run_out_of_memory(problem: Exception) -> None:
    assert is_about_memory(problem)
    assert not is_about_memory(RuntimeError("could not create a primitive descriptor for a matmul primitive"))


def test_memory_that_runs_out_anywhere(trained: Path, janus: Janus, monkeypatch: Patch) -> None:
    def nothing_left(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(checkpoint, "load_tokenizers", nothing_left)
    ends(janus(*DECODE, stdin=b"ba\n"), 6, "not enough memory (MemoryError)")


# Kills


# Runs two commands and then its own, each of which is killed where it first makes something last.
KILLED = """
import os, signal
from janus_cli import cli, files
files.sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)
for command in ("average run --last 2", "export run"):
    process = os.fork()
    if not process:
        cli.main(command.split())
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
"""


def hidden(root: Path) -> list[Path]:
    return [path for path in root.rglob(".*") if path.name not in (".lock", ".checked.json")]


def test_the_next_call_removes_what_a_killed_one_left(trained: Path, janus: Janus) -> None:
    """Also if it makes something else in that folder."""
    ends(ended(child("preprocess", "--recipe", "tiny.yaml", "--out", "new", before=KILLED)), -9)
    assert len(hidden(Path())) == 6  # folder and lock of each
    assert janus("average", "run", "--best", "1")[0] == 0
    assert janus("export", "run", "--checkpoint", "last")[0] == 0
    assert janus("preprocess", "--recipe", "tiny.yaml", "--out", "newer")[0] == 0
    assert hidden(Path()) == []


# Modes


def test_the_umask_decides_who_may_read(tiny_recipe: Path, janus: Janus) -> None:
    mask = 0o027
    before = os.umask(mask)
    try:
        for words in (
            (*TRAIN, "--run", "run", "--set", "training.updates=2"),
            ("average", "run"),
            ("export", "run"),
            ("decode", "run", "--out", "mine", "--device", "cpu"),
            ("distill", "run", "--device", "cpu"),
        ):
            assert janus(*words)[0] == 0
    finally:
        os.umask(before)
    for path in (path for path in Path().rglob("*") if not path.is_symlink() and path != tiny_recipe):
        if path.name == "tiny.yaml":
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o777 if path.is_dir() else 0o666) & ~mask, path


# --resume before anything is finished


def test_every_resume_begins_what_has_not_begun(trained: Path, janus: Janus) -> None:
    more = ("--set", "training.updates=2")
    code, _, err = janus(*TRAIN, "--run", "fresh", "--resume", *more, "--allow-change", "seed")
    assert (code, "fresh has not begun: starting at update 0" in err) == (0, True), err
    ends(janus(*TRAIN, "--run", "fresh", "--resume", *more), 0, "is finished after 2 updates")
    assert digest(Path("fresh/checkpoints/last")) == digest(go(Path("tiny.yaml"), "plain", more[1]) / "last")
    assert janus("decode", "run", "--resume", "--device", "cpu")[0] == 0
    assert janus("distill", "run", "--resume", "--device", "cpu")[0] == 0
    assert janus("train", "--resume", "--run", "nowhere")[0] == 2  # nothing says what to train


# The system's limits


PREPARE = ("preprocess", "--recipe", "tiny.yaml", "--out", "new")


@pytest.mark.parametrize(
    ("owner", "name", "command", "words"),
    [
        (shutil, "copyfile", ("export", "run", "--out", "full"), "error: full: No space left on device"),
        (shutil, "copyfile", (*TRAIN, "--run", "other"), r"error: other/tokenizer\.\w+: No space left"),
        (StoreWriter, "add", PREPARE, "error: new: No space left on device"),
        (files.os, "write", PREPARE, r"\.new\.lock: No space left on device\nhint: free some space"),
    ],
)
def test_a_full_disk_names_what_was_being_written(
    trained: Path, janus: Janus, monkeypatch: Patch, owner: Any, name: str, command: tuple[str, ...], words: str
) -> None:
    def full(*given: object) -> None:
        named = (str(given[0]), None, str(given[1])) if name == "copyfile" else ()
        raise OSError(errno.ENOSPC, "No space left on device", *named)

    monkeypatch.setattr(owner, name, full)
    assert re.search(words, ends(janus(*command), 1))


def test_too_many_open_files_are_nobodys_damage(trained: Path, janus: Janus, monkeypatch: Patch) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", "source.npy")

    monkeypatch.setattr(store, "_mapped", none_left)
    monkeypatch.setattr(StoreWriter, "__init__", none_left)
    for command in (TRAIN, PREPARE):
        err = ends(janus(*command), 1, "error: too many open files\n", "raise `ulimit -n`")
        assert "--force" not in err


def test_ctrl_c_before_the_first_update(tiny_recipe: Path, janus: Janus, monkeypatch: Patch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt  # a signal would do nothing where the tests were started with SIGINT ignored

    monkeypatch.setattr("janus_cli.training.run.build_model", interrupted)
    ends(janus(*TRAIN, "--run", "run"), 130, "nothing to save")
