"""Plain text (data.task denoising): lines become examples, and in each epoch noise makes pairs of them.

Prepared data holds an example once, as the target of an empty source; the noise is drawn when a batch is read
(`batching.noised`), for each example and epoch anew. So it costs no space, and stays a function of seed, epoch and
example, wherever it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from janus_cli.data.store import Ragged
from janus_cli.data.tokenizer import load_tokenizers
from janus_cli.recipe import Data

if TYPE_CHECKING:
    from torch import Tensor

SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "।", "؟")
CLOSERS = "\"')]}’”»›」』"


def examples(lines: Ragged, data: Data, begin: Sequence[int] = ()) -> Ragged:
    """Lines as examples of up to `example_limit` tokens: longer lines are cut; with `pack`, neighbours are joined, but
    not across an empty line. begin: what each example begins with, and lines do not."""
    most, lengths, size = max(1, data.example_limit - len(begin)), list[int](), 0
    for length in lines.lengths.tolist():
        if size and (not data.pack or not length or size + length > most):
            lengths.append(size)
            size = 0
        parts, rest = divmod(length, most)
        lengths += [most] * parts
        size += rest
    lengths += [size] * (size > 0)
    sizes = np.array(lengths, np.int64)
    if not begin:
        return Ragged(lines.values, sizes)
    starts = np.repeat(sizes.cumsum() - sizes, len(begin))
    values = np.insert(lines.values, starts, np.tile(np.array(begin, lines.values.dtype), len(sizes)))
    return Ragged(values, sizes + len(begin))


@cache
def frame(folder: Path, fingerprint: str) -> int:
    """Tokens that every example begins with. fingerprint: of the data in the folder, which may be written anew."""
    return len(load_tokenizers(folder).begin)


@cache
def sentence_ends(folder: Path, fingerprint: str) -> Tensor:
    """(V,) bool, True for tokens that end in a full stop or the like, or in a mark that closes behind it.

    fingerprint: as in `frame`.
    """
    import torch

    tokenizer = load_tokenizers(folder).target
    texts = tokenizer.decode([[index] for index in range(tokenizer.size)])
    return torch.tensor([text.rstrip(CLOSERS).endswith(SENTENCE_ENDS) for text in texts])
