"""Which pairs stay, by their numbers of tokens, and what is said of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from janus_cli import console
from janus_cli.data.store import Ragged, Store
from janus_cli.recipe import Data

MANY = 0.05  # a larger share of lost pairs is worth a warning
LONGER = 1.5  # times as long as sources, targets of `task: generation` are
UNLIKE = 2  # times as long as in train, or as short, is worth one, too


def faults(split: str, data: Data, source: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """By reason, the pairs, (pairs,) bool, that are of no use for training or, of valid, for the losses.

    source, target: token counts. A test split has no such pairs.
    """
    if split == "test":
        return {}
    if data.is_plain:
        source = target  # which it is made of
    shorter, longer, train = np.minimum(source, target), np.maximum(source, target), split == "train"
    found = {
        "empty": shorter == 0,
        "too_short": train & (shorter < data.min_tokens),
        "too_long": (source > data.source_limit) | (target > data.target_limit),
    }
    if data.max_ratio is not None:
        found["ratio"] = train & (longer > data.max_ratio * shorter)
    return found


def filter_pairs(
    split: str, data: Data, source: np.ndarray, target: np.ndarray, bad: set[int]
) -> tuple[np.ndarray, Counter[str], Counter[str]]:
    """Which pairs to keep, (pairs,) bool, and how many are dropped and left out for each (first) reason.

    bad: pairs with bad UTF-8, to drop. Faulty pairs of train are dropped, those of valid are kept, but left out of the
    losses: they are decoded and scored.
    """
    kept = ~np.isin(np.arange(len(source)), list(bad))
    usable, counts, dropped = kept.copy(), Counter[str](), Counter({"bad_utf8": len(bad)})
    for reason, fault in faults(split, data, source, target).items():
        counts[reason] = int((usable & fault).sum())
        usable &= ~fault
    return (usable, dropped + counts, Counter()) if split == "train" else (kept, dropped, counts)


def with_losses(store: Store, data: Data) -> np.ndarray:
    """Which pairs of a valid split have losses, (pairs,) bool."""
    return ~np.any(list(faults("valid", data, *store.lengths()).values()), axis=0)


def shortened(data: Data, sources: Ragged) -> tuple[Ragged, np.ndarray]:
    """The sources, cut to the recipe's limit if it says so, and which of them are longer, (rows,) bool."""
    long = sources.lengths > data.source_limit
    return (sources.cut(data.source_limit) if data.truncate_source else sources), long


def reasons(dropped: Mapping[str, int]) -> str:
    """Drop counts by reason in words, as in `empty 3, ratio 1`."""
    ordered = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered)


def considered(entry: Mapping[str, Any], data: Data) -> int:
    """The pairs of a split before any were dropped; of plain text the examples, which are no lines."""
    return int(entry["kept"] + sum(entry["dropped"].values()) if data.is_plain else entry["in"])


def tell(split: str, entry: Mapping[str, Any], data: Data) -> None:
    """Says how many pairs of a split are kept, and what becomes of the others; warns where a knob loses many.

    entry: the split's part of the manifest.
    """
    dropped, left_out = entry["dropped"], entry["left_out"]
    said = [f"{entry['kept']:,} of {entry['in']:,} pairs kept"]
    if data.is_plain:
        said = [f"{console.counted(entry['kept'], 'example')} of {console.counted(entry['in'], 'line')}"]
    elif "target" not in entry["text"]:
        said = [f"{console.counted(entry['kept'], 'source')}, no target: can be decoded, not scored"]
    if dropped:
        said.append(f"dropped: {reasons(dropped)}")
    if left_out:
        said.append(f"left out of the losses, but decoded and scored: {reasons(left_out)}")
    if mended := entry["bad_utf8_replaced"]:
        said.append(f"mended: {console.counted(mended, 'line')} not in UTF-8")
    if long := entry["long_sources"]:
        limit = f"the {data.source_limit} tokens of data.{data.limit('source')[0]}"
        what = f"cut to {limit}" if data.truncate_source else f"longer than {limit}, which decoding may cut"
        said.append(f"sources {what}: {long:,}")
    console.say(f"{split}: {'; '.join(said)}")
    _warn(split, dropped, considered(entry, data), data, "dropped")
    _warn(split, left_out, considered(entry, data), data, "left out of the losses")


def tell_lengths(tokens: Mapping[str, Mapping[str, Mapping[str, float]]], task: str) -> None:
    """Warns of lengths that files have which were swapped. tokens: by split and side, see `prepare.summary`."""
    means = {split: {side: found["mean"] for side, found in sides.items()} for split, sides in tokens.items()}
    train = means["train"]
    if task == "generation" and train["target"] >= LONGER * train["source"]:
        words = f"mean {train['target']:.1f} tokens, sources {train['source']:.1f}"
        console.warn(f"train: targets are longer than sources ({words}): are the sides swapped?")
    for split, own in means.items():
        unlike = [side for side, mean in own.items() if mean and not 1 / UNLIKE <= mean / train[side] <= UNLIKE]
        if unlike:
            words = ", ".join(f"mean {own[side]:.1f} {side} tokens, in train {train[side]:.1f}" for side in unlike)
            console.warn(f"{split}: unlike train in length ({words}): are these the right files?")


def _warn(split: str, lost: Mapping[str, int], whole: int, data: Data, fate: str) -> None:
    """Warns of pairs lost to a knob or to empty lines if they are many; duplicates and bad bytes were asked about."""
    why = {"empty": "", **{reason: f" by {knob}" for reason, knob in _knobs(data).items()}}
    counts = {reason: count for reason, count in lost.items() if reason in why}
    if (share := sum(counts.values()) / whole) > MANY:
        parts = ", ".join(f"{reason} {count:,}{why[reason]}" for reason, count in counts.items())
        console.warn(f"{split}: {share:.1%} of the {'examples' if data.is_plain else 'pairs'} are {fate}: {parts}")


def loosen(lost: Mapping[str, int], data: Data) -> list[str]:
    """The knobs that lost pairs for these reasons, with their values, and what to do."""
    return [knob for reason, knob in _knobs(data).items() if lost.get(reason)]


def _knobs(data: Data) -> dict[str, str]:
    """By reason, the knobs that drop pairs, with their values, and what to do where these are too many."""
    sides = ("target",) if data.truncate_source else ("source", "target")
    limits = " and ".join(dict.fromkeys(f"data.{knob} {limit}" for knob, limit in map(data.limit, sides)))
    cut = "" if data.truncate_source else ", or cut sources, not targets, with --set data.truncate_source=true"
    ratio = "raise it for scripts that need fewer letters; if this is no translation, --set data.task=generation"
    if data.task != "translation":
        ratio = "--set data.max_ratio=null keeps all"
    return {
        "too_short": f"data.min_tokens {data.min_tokens} (lower it)",
        "too_long": f"{limits} (raise it{cut})",
        "ratio": f"data.max_ratio {data.max_ratio or 0:g} ({ratio})",
    }
