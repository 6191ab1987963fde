"""Which precision `auto` takes, and that the rate it is measured against is one."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from janus_cli import device
from janus_cli.device import autocast, product_rate, resolve_precision
from janus_cli.training.run import train

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True}, "float32"), ({}, "float32")],
)
def test_auto_is_bf16_where_the_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("float32", CPU) == "float32"
    assert resolve_precision("bf16", CPU) == "bf16"
    with autocast("auto", CPU):
        assert torch.is_autocast_enabled("cpu") == (expected == "bf16")


def test_a_torch_that_does_not_know_its_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert resolve_precision("auto", CPU) == "float32"


@pytest.mark.parametrize("name", ["float32", "bf16"])
def test_the_rate_of_products_is_that_of_the_fastest(
    monkeypatch: pytest.MonkeyPatch, name: Literal["float32", "bf16"]
) -> None:
    clock = iter([0.0, 0.1, 1.0, 5.0, 6.0, 8.0, 9.0, 13.0, 14.0, 18.0, 19.0, 23.0])  # 0.1 s to warm up, 2 at best
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(clock))
    assert product_rate(name, CPU) == 2 * 1024**3 / 2


def test_a_run_that_goes_on_in_another_precision_says_so(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`auto` may mean something else on the machine that a run is resumed on."""
    for updates, capabilities in ((2, {}), (3, {}), (4, {"avx512_bf16": True})):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        changes = (f"training.updates={updates}",)
        recipe, allowed = (str(tiny_recipe), ()) if updates == 2 else (None, ("training.updates",))
        train(
                recipe=recipe, run=Path("run"), changes=changes, resume=updates > 2, allow_change=allowed, device="cpu"
            )  # fmt: skip
        told = "up to update 3 this run had precision float32, now it has precision bf16"
        assert (told in capsys.readouterr().err) == (updates == 4)
