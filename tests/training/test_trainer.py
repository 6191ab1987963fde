"""One update: what it reads, what the optimiser gets, and what happens where it cannot be made."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from janus_cli import recipe_load, world
from janus_cli.core.batch import PAD, Batch, collate
from janus_cli.core.knobs import ArObjective, CmlmObjective, JanusObjective, Model
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.core.stream import content
from janus_cli.device import choose_device
from janus_cli.errors import NonFiniteError, OutOfMemoryError, UsageError
from janus_cli.recipe import Training
from janus_cli.training.trainer import LossModule, Trainer, dropout_seed, learning_rate, micro_batches, plan_of
from janus_cli.world import World, autocast, product_rate, resolve_precision
from tests.faults.processes import entries, make_trainer
from tests.helpers import Patch

CPU = torch.device("cpu")
LOG = Path("log.jsonl")
PLAIN = ("model.dropout=0.0", "training.precision=float32")
NO_MEMORY = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None}


def must_be_close(one: Trainer, two: Trainer) -> None:
    first, second = gradients(one), gradients(two)
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        assert torch.allclose(gradient, second[name], atol=1e-5), name


def test_the_optimiser_gets_what_the_recipe_says(tiny_recipe: Path) -> None:
    knobs = ("learning_rate=0.002", "beta1=0.8", "beta2=0.9", "epsilon=1e-7", "weight_decay=0.03")
    trainer, rates = make_trainer(tiny_recipe, *(f"training.{knob}" for knob in knobs)), []
    for window in islice(trainer.windows(), 6):
        trainer.update(window)
        (group,) = trainer.optimizer.param_groups
        rates.append(group["lr"])
    rest = {"betas": (0.8, 0.9), "eps": 1e-7, "weight_decay": 0.03}
    assert {name: group[name] for name in rest} == rest
    # Warm-up over 4 updates, then 1 / sqrt.
    assert rates == pytest.approx([0.002 * part for part in (0.25, 0.5, 0.75, 1.0, (4 / 5) ** 0.5, (4 / 6) ** 0.5)])


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_clipping(tiny_recipe: Path, clip: float) -> None:
    trainer = make_trainer(tiny_recipe, f"training.clip={clip}")
    trainer.update(next(trainer.windows()))
    norm = float(torch.cat([gradient.flatten() for gradient in gradients(trainer).values()]).norm())
    assert norm == pytest.approx(clip, rel=1e-3) if clip else norm > 0.1
    assert trainer.meter.norm > 0.1, "the log has it as it was"


def test_the_kls_rise_while_a_training_goes_on(tiny_recipe: Path) -> None:
    knobs = ("kl_ar_aux=2", "kl_nar_aux=1", "kl_start=2", "kl_warmup=2")
    trainer, weights = make_trainer(tiny_recipe, *(f"objective.{knob}" for knob in knobs)), []
    for window in islice(trainer.windows(), 6):
        trainer.update(window)
        weights.append((trainer.meter.means.weights["kl_ar_aux"], trainer.meter.means.weights["kl_nar_aux"]))
    assert weights == [(0, 0), (0, 0), (1, 0.5), (2, 1), (2, 1), (2, 1)]


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("inverse_sqrt", {0: 0.1, 9: 1.0, 39: 0.5}),
        ("linear", {0: 0.1, 9: 1.0, 55: 0.5, 99: 1 / 90}),
        ("cosine", {0: 0.1, 9: 1.0, 55: 0.5}),
    ],
)
def test_schedules(schedule: Any, rates: dict[int, float]) -> None:
    knobs = Training(updates=100, warmup=10, learning_rate=1.0, schedule=schedule)
    assert {step: learning_rate(step, knobs) for step in rates} == pytest.approx(rates, rel=0.005)


@pytest.mark.parametrize(
    ("knob", "elsewhere"),
    [("dropout", "embeddings"), ("dropout", "layers"), ("attention_dropout", ""), ("activation_dropout", "")],
)
def test_each_dropout_acts_and_repeats_with_its_seed(tiny: Model, ragged: Batch, knob: str, elsewhere: str) -> None:
    """`dropout` in the embeddings and in the layers, each without the other."""
    model = Transformer(replace(tiny, **{knob: 0.5}), 20, 20, length_head=False)
    if elsewhere == "embeddings":
        model.knobs = tiny
    if elsewhere == "layers":
        for layer in (*model.encoder, *model.decoder):
            layer.dropout = 0.0

    def states(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model.decode(content(ragged.target), model.encode(ragged.source, ragged.source_real))

    model.train()
    assert torch.equal(states(1), states(1))
    assert not torch.allclose(states(1), states(2))
    model.eval()
    assert torch.equal(states(1), states(2))


def test_no_two_updates_or_ranks_share_their_dropout() -> None:
    seeds = {dropout_seed(seed, step, rank) for seed in (1, 2) for step in range(50) for rank in range(8)}
    assert len(seeds) == 2 * 50 * 8


def test_each_epoch_hides_other_tokens(tiny_recipe: Path, ragged: Batch) -> None:
    recipe = recipe_load.load(str(tiny_recipe))
    first, again, second = (plan_of(ragged, recipe, epoch).streams["nar_aux"].tokens for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert first.shape != second.shape or not torch.equal(first, second)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_sentence_once_an_epoch_and_as_many_windows_on_every_rank(
    tiny_recipe: Path, size: int, accumulate: int
) -> None:
    trainer, seen, counts = make_trainer(tiny_recipe, f"training.accumulate={accumulate}"), list[int](), set()
    for rank in range(size):
        trainer.world, count = World(rank, size, CPU), 0
        trainer.position.epoch = trainer.position.batch = 0
        for window in trainer.windows():
            if trainer.position.epoch:
                break
            count += 1
            assert window.micros
            here = [int(i) for micro in window.micros if micro.weight for i in micro.batch.ids]
            assert set(here) <= {int(row) for rows in window.rows for row in rows}
            seen += here
        counts.add(count)
    assert sorted(seen) == list(range(len(trainer.prepared.train)))
    assert len(counts) == 1


def test_a_cpu_takes_every_sentence_once_in_parts(tiny_recipe: Path, ragged: Batch) -> None:
    def parts(slots: int, device: torch.device = CPU) -> list[list[int]]:
        recipe = recipe_load.load(str(tiny_recipe), [f"training.cpu_slots={slots}"], "ar")
        return [micro.batch.ids.tolist() for micro in micro_batches(ragged, 1.0, recipe, 0, device)]

    assert parts(15) == [[0, 1, 2]]  # 3 sentences of 5 slots
    assert parts(10) == [[0, 1], [2]]
    assert parts(1) == [[0], [1], [2]]
    assert parts(0) == [[0, 1, 2]]
    assert parts(1, torch.device("cuda")) == [[0, 1, 2]]


@pytest.mark.parametrize("objective", ["ar", "janus", "cmlmc", "bang"])
def test_parts_have_the_gradient_of_the_whole(tiny_recipe: Path, objective: str) -> None:
    whole, parts = (
        make_trainer(tiny_recipe, *PLAIN, f"training.cpu_slots={slots}", objective=objective) for slots in (0, 40)
    )
    sizes = []
    for trainer in (whole, parts):
        window = next(trainer.windows())
        trainer.update(window)
        sizes.append(len(window.micros))
    assert sizes[0] == 1 < sizes[1]
    must_be_close(whole, parts)


def fits(monkeypatch: Patch, most: int) -> list[int]:
    """Batches of more than `most` sentences do not fit into memory; the list tells of what size each one was."""
    plain, sizes = LossModule.forward, list[int]()

    def forward(self: LossModule, batch: Batch, *rest: Any) -> Any:
        sizes.append(len(batch.ids))
        if len(batch.ids) > most:
            raise NO_MEMORY
        return plain(self, batch, *rest)

    monkeypatch.setattr(LossModule, "forward", forward)
    return sizes


def test_a_batch_that_does_not_fit_is_halved_and_gives_the_same_gradient(tiny_recipe: Path, monkeypatch: Patch) -> None:
    whole, halved = make_trainer(tiny_recipe, *PLAIN), make_trainer(tiny_recipe, *PLAIN)
    window = next(whole.windows())
    whole.update(window)
    size = len(window.micros[0].batch.ids)
    sizes = fits(monkeypatch, size - 1)
    halved.update(window)
    assert sizes == [size, -(-size // 2), size // 2]
    assert not LOG.exists(), "nothing was skipped"
    must_be_close(whole, halved)


def test_what_does_not_fit_in_halves_is_skipped_and_in_the_end_fatal(tiny_recipe: Path, monkeypatch: Patch) -> None:
    trainer = make_trainer(tiny_recipe, "training.max_bad_steps=3")
    fits(monkeypatch, 0)
    windows = trainer.windows()
    for _ in range(2):
        trainer.update(next(windows))
    with pytest.raises(OutOfMemoryError, match="does not fit into memory") as failed:
        trainer.update(next(windows))
    assert failed.value.exit_code == 6
    assert "training.batch_tokens" in failed.value.hint
    skipped = entries(LOG)
    assert [(line["kind"], line["why"], line["in_a_row"]) for line in skipped] == [
        ("skipped", "out of memory", count) for count in (1, 2, 3)
    ]
    assert all(line["sentences"] for line in skipped)


@pytest.mark.parametrize("problem", [torch.OutOfMemoryError("CUDA out of memory"), NO_MEMORY])
def test_no_room_for_what_the_optimiser_keeps(tiny_recipe: Path, monkeypatch: Patch, problem: RuntimeError) -> None:
    def step() -> None:
        raise problem

    trainer = make_trainer(tiny_recipe)
    monkeypatch.setattr(trainer.optimizer, "step", step)
    with pytest.raises(OutOfMemoryError, match="update 1: no memory for what the optimiser keeps"):
        trainer.update(next(trainer.windows()))


def test_other_errors_are_not_taken_for_memory(tiny_recipe: Path, monkeypatch: Patch) -> None:
    def forward(*_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(LossModule, "forward", forward)
    trainer = make_trainer(tiny_recipe)
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.update(next(trainer.windows()))


def test_a_broken_gradient_is_skipped_counted_and_in_the_end_fatal(tiny_recipe: Path, monkeypatch: Patch) -> None:
    plain = Trainer.backward

    def poison(self: Trainer, *arguments: Any) -> Any:
        results = plain(self, *arguments)
        if self.position.step not in (0, 2):
            next(iter(gradients(self).values())).fill_(float("nan"))
        return results

    monkeypatch.setattr(Trainer, "backward", poison)
    trainer = make_trainer(tiny_recipe, "training.max_bad_steps=3")
    windows = trainer.windows()
    for has_loss in (True, False, True, False, False):
        trainer.update(next(windows))
        values = trainer.meter.take()
        assert ("loss" in values, "norm" in values) == (has_loss, has_loss)
        assert values["seconds_per_update"] > 0
    with pytest.raises(NonFiniteError, match="3 updates in a row"):
        trainer.update(next(windows))
    skipped = entries(LOG)
    assert [(line["step"], line["in_a_row"]) for line in skipped] == [(2, 1), (4, 1), (5, 2), (6, 3)]
    assert all(line["sentences"] for line in skipped)
    assert all(torch.isfinite(weight).all() for weight in trainer.model.parameters())


@pytest.mark.parametrize("objective", ["ar", "cmlm", "janus"])
def test_a_target_without_tokens_and_a_source_of_padding(tiny: Model, objective: str) -> None:
    """Finite outputs and gradients, whatever is empty."""
    torch.manual_seed(0)
    knobs = {"ar": ArObjective(), "cmlm": CmlmObjective(), "janus": JanusObjective()}[objective]
    model = Transformer(tiny, 20, 20, length_head=True)
    batch = collate([[5, 6], [7]], [[], [8, 9]], [0, 1])
    batch = Batch(torch.where(torch.tensor([[True], [False]]), PAD, batch.source), batch.target, batch.ids)
    plan = OBJECTIVES[objective].plan(batch, Draws(1, 0, batch.ids), knobs)
    terms = OBJECTIVES[objective].loss(model, batch, plan, knobs)
    torch.stack([term.weight * term.total * plan.share(term.unit) for term in terms.values()]).sum().backward()
    assert all(torch.isfinite(term.total) for term in terms.values())
    assert all(weight.grad is None or torch.isfinite(weight.grad).all() for weight in model.parameters())


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True}, "float32"), (None, "float32")],
)
def test_auto_is_bf16_where_the_cpu_multiplies_it(
    monkeypatch: Patch, capabilities: dict[str, bool] | None, expected: str
) -> None:
    if capabilities is None:  # a torch that does not know its CPU
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("float32", CPU) == "float32"
    assert resolve_precision("bf16", CPU) == "bf16"
    with autocast("auto", CPU):
        assert torch.is_autocast_enabled("cpu") == (expected == "bf16")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "float32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_is_bf16_where_the_gpu_multiplies_it(
    monkeypatch: Patch, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda")) == expected


def test_a_process_that_sees_only_its_own_gpu_takes_that(monkeypatch: Patch) -> None:
    """As with `--gpus-per-task 1` of SLURM: each rank has one device, number 0."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UsageError):
        choose_device("auto", 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert choose_device("auto", 3) == torch.device("cuda", 0)


def test_auto_looks_at_what_torch_will_use_not_at_what_the_cpu_has(monkeypatch: Patch) -> None:
    capabilities = {"avx512_bf16": True, "amx_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name, value, expected in (
        ("ONEDNN_MAX_CPU_ISA", "avx512_core", "float32"),
        ("DNNL_MAX_CPU_ISA", "AVX2", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", "bf16"),
        ("ONEDNN_MAX_CPU_ISA", "DEFAULT", "bf16"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert resolve_precision("auto", CPU) == expected, value
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        assert resolve_precision("auto", CPU) == "float32"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert resolve_precision("auto", CPU) == "float32"


@pytest.mark.parametrize("name", ["float32", "bf16"])
def test_the_rate_of_products_is_that_of_the_fastest(monkeypatch: Patch, name: Any) -> None:
    clock = iter([0.0, 0.1, 1.0, 5.0, 6.0, 8.0, 9.0, 13.0, 14.0, 18.0, 19.0, 23.0])  # 0.1 s to warm up, 2 at best
    monkeypatch.setattr(world.time, "perf_counter", lambda: next(clock))
    assert product_rate(name, CPU) == 2 * 1024**3 / 2


def test_the_graph_of_a_part_does_not_outlive_it(tiny_recipe: Path) -> None:
    """Two at a time took a tenth more memory."""
    trainer = make_trainer(tiny_recipe, "training.cpu_slots=40", objective="janus")
    window = next(trainer.windows())
    results = trainer.backward(window.micros, trainer._counts(window))
    assert len(results) > 1
    assert not any(term.total.requires_grad for terms, _ in results for term in terms.values())
