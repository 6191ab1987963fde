"""How long one linear map takes in float32, bf16 and int8, at the sizes that decoding has: which precision pays.

    python benchmarks/products.py --shape 256/1024

float32 and bf16 are what `core/fast.py` calls, with packed weights where these pay. int8 is torch's dynamic
quantisation, whose scale is that of all rows together: with it a sentence's text would depend on its neighbours, so
it would have to be much faster to be worth it. Rows are slots of a decoder call: one for a sentence alone and left to
right, its length for mask-predict, 64 and 5 times 64 for greedy and beam search in batches, 960 for mask-predict in
batches. Contestants take turns; medians over the turns, in microseconds.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median

import shared
import torch

from janus_cli.core.fast import packed, product
from janus_cli.lab.tables import markdown

ROWS = (1, 15, 64, 320, 960)
TURNS, WARM_UP = 5, 5
ENOUGH = 0.01  # seconds of calls a turn

Call = Callable[[], torch.Tensor]


def main(arguments: Sequence[str] | None) -> None:
    """Times as asked and prints a table."""
    parser = shared.parser(__doc__)
    parser.add_argument("--vocabulary", type=shared.positive, default=shared.SHAPE_VOCABULARY)
    asked = parser.parse_args(arguments)
    recipe = shared.load(asked, "ar", "float32", asked.vocabulary)
    width, inner, vocabulary = recipe.model.width, recipe.model.feedforward, recipe.tokenizer.vocabulary
    shared.start(asked)
    torch.manual_seed(1)
    lines = []
    with torch.inference_mode():
        for size in ((width, width), (width, inner), (inner, width), (width, vocabulary)):
            for rows in ROWS:
                found = turns(contestants(*size, rows))
                lines.append([f"{size[0]} → {size[1]}", str(rows), *(f"{1e6 * each:.0f}" for each in found)])
    sys.stdout.write(markdown(dict.fromkeys(["map", "rows", "float32", "bf16", "int8, dynamic"], ""), lines) + "\n")


def contestants(width: int, out: int, rows: int) -> list[Call]:
    """The same map three times."""
    weight, x = torch.randn(out, width) / width**0.5, torch.randn(rows, width)
    low, short = weight.bfloat16(), x.bfloat16()
    pack, low_pack = packed(weight), packed(low)
    scale = weight.abs().amax(1) / 127
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and torch has nothing else that is dynamic on a CPU
        whole = torch.quantize_per_channel(weight, scale, torch.zeros(out, dtype=torch.long), 0, torch.qint8)
        quantised = torch.ops.quantized.linear_prepack(whole, None)
    return [
        lambda: product(x, weight, pack),
        lambda: product(short, low, low_pack),
        lambda: torch.ops.quantized.linear_dynamic(x, quantised, False),
    ]


def turns(calls: Sequence[Call]) -> list[float]:
    """Seconds a call."""
    counts = [max(1, int(ENOUGH / seconds(call, WARM_UP))) for call in calls]
    taken = [[seconds(call, count) for call, count in zip(calls, counts, strict=True)] for _ in range(TURNS)]
    return [median(each) for each in zip(*taken, strict=True)]


def seconds(call: Call, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - started) / count


if __name__ == "__main__":
    shared.run(main)
