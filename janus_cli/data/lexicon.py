"""Token translations for objectives that switch words of the source (CeMAT): from a file, or induced from the text.

Tokens, not words, because a model reads tokens: of a dictionary, only pairs of single-token words are used. Without a
dictionary, IBM model 1 induces translations from the training text (Brown et al. 1993): t(y | x), the probability that
source token x becomes target token y, by expectation maximisation from a uniform start,

    c(x, y)  =  sum, over every place of y in a target whose source has x, of
                t(y | x) / sum over x' of t(y | x'),   x' the tokens of that source, and the empty word
    t(y | x) =  c(x, y) / sum over y' of c(x, y')

A run keeps its lexicon: resuming reads it again, so that noise stays a function of seed, epoch and sentence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from janus_cli import console, documents
from janus_cli.core.batch import PAD, SPECIAL
from janus_cli.core.knobs import CematObjective
from janus_cli.data.lines import Lines, cleaner
from janus_cli.data.prepared import Prepared
from janus_cli.data.store import Store
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.errors import CheckpointError, DataError
from janus_cli.recipe import Recipe

FORMAT = 1
EMPTY_WORD = PAD  # the empty word of each source, which target tokens without a source token are aligned with
CELLS = 2_000_000  # pairs of a source and a target token in a chunk; bounds memory
MOST = 1000  # translations of a token in a file, unless the recipe asks for more; bounds memory
Ids = NDArray[np.int64]
Translations = dict[int, list[int]]  # translations of each token, likeliest first


def wanted(recipe: Recipe) -> CematObjective | None:
    """The objective's knobs, if it switches words."""
    objective = recipe.objective
    return objective if isinstance(objective, CematObjective) and objective.switched > 0 else None


def make(recipe: Recipe, prepared: Prepared) -> bytes:
    """The lexicon of a new run, as its file holds it; empty for objectives that need none.

    Raises DataError if the dictionary cannot be read, or no token could be switched.
    """
    knobs = wanted(recipe)
    if knobs is None:
        return b""
    if knobs.dictionary is not None:
        translations = from_file(Path(knobs.dictionary), recipe, prepared.tokenizers)
    else:
        console.say("inducing a dictionary from the training text (IBM model 1)")
        translations = induce(prepared.train, knobs)
    translations = {x: ys[: knobs.translations] for x, ys in sorted(translations.items())}
    several = sum(len(ys) > 1 for ys in translations.values())
    if not several:
        raise DataError(
            "no token has two translations, so no word can be switched",
            "name a dictionary with --set objective.dictionary=FILE, or --set objective.switched=0",
        )
    console.say(f"lexicon: {len(translations):,} tokens with translations, {several:,} of them with several")
    lexicon = {"format": FORMAT, "fingerprint": prepared.train.fingerprint, "sha256": _digest(translations)}
    return json.dumps({**lexicon, "translations": translations}).encode()


def attach(recipe: Recipe, prepared: Prepared, file: Path) -> None:
    """Gives the run's lexicon to all batches of the prepared data; nothing for objectives that need none.

    Raises CheckpointError if it is missing, damaged, or of other data.
    """
    knobs = wanted(recipe)
    if knobs is None:
        return
    store, restart = prepared.train, "the run cannot continue without it; restart it with --force"
    try:
        lexicon = documents.read(file, documents.Lexicon)
    except DataError as problem:
        raise CheckpointError(problem.message, restart) from None
    translations = {int(x): ys for x, ys in lexicon["translations"].items()}
    most = max(MOST, knobs.translations)
    fits = all(x < store.source_vocabulary and len(ys) <= most for x, ys in translations.items())
    fits = fits and all(y < store.target_vocabulary for ys in translations.values() for y in ys)
    if lexicon["format"] != FORMAT or lexicon["sha256"] != _digest(translations) or not fits:
        raise CheckpointError(f"{file} is damaged", restart)
    if lexicon.get("fingerprint") != store.fingerprint:
        raise CheckpointError(f"{file} belongs to other data", restart)
    prepared.train.lexicon = prepared.valid.lexicon = table(translations, store.source_vocabulary)


def _digest(translations: Translations) -> str:
    return hashlib.sha256(json.dumps(translations, sort_keys=True).encode()).hexdigest()


def table(translations: Translations, vocabulary: int) -> Tensor:
    """(V, K) int64, what `Batch.lexicon` holds."""
    rows = torch.full((vocabulary, max(map(len, translations.values()), default=1)), PAD)
    for x, ys in translations.items():
        rows[x, : len(ys)] = torch.tensor(ys)
    return rows


def from_file(path: Path, recipe: Recipe, tokenizers: Tokenizers) -> Translations:
    """Translations from lines `word<TAB>word`, source first, in the order of the file; DataError for other lines."""
    clean = cleaner(recipe.data.clean)
    try:
        pairs = [line.split("\t") for line in Lines(path, strict=True)]
    except DataError as problem:
        raise DataError(f"objective.dictionary: {problem.message}", problem.hint) from None
    for number, pair in enumerate(pairs, 1):
        if len(pair) != 2 or not all(word.strip() for word in pair):
            raise DataError(f"{path}:{number}: not a pair of words", "one pair a line, source first, a tab between")
    sources = tokenizers.source.encode([clean(source) for source, _ in pairs])
    targets = tokenizers.target.encode([clean(target) for _, target in pairs])
    tokens = ((*x, *y) for x, y in zip(sources, targets, strict=True) if len(x) == len(y) == 1)
    single = [(x, y) for x, y in tokens if min(x, y) >= SPECIAL]
    console.say(f"{path}: {len(single):,} of {len(pairs):,} pairs are of one known token each")
    return _collected(single)


def _collected(pairs: Iterable[tuple[int, int]]) -> Translations:
    by_source: Translations = {}
    for x, y in dict.fromkeys(pairs):
        by_source.setdefault(x, []).append(y)
    return by_source


def induce(store: Store, knobs: CematObjective) -> Translations:
    """Translations by IBM model 1 (see the top), likeliest first, equally likely ones in the order of their ids.

    Sums run in one order in float64, so the result depends on the text alone.
    """
    count = min(len(store), knobs.dictionary_pairs)
    rows = np.linspace(0, len(store) - 1, count).astype(np.int64)
    width = store.target_vocabulary
    known: Ids = np.zeros(0, np.int64)
    for cells, _ in _chunks(store, rows):
        known = np.union1d(known, cells)
    x, y = np.divmod(known, width)
    likely = np.ones(len(known))
    for _ in range(knobs.dictionary_rounds):
        counts = np.zeros(len(known))
        for cells, places in _chunks(store, rows):
            at = np.searchsorted(known, cells)
            whole = np.bincount(places, likely[at])
            counts += np.bincount(at, likely[at] / whole[places], len(known))
        likely = counts / np.bincount(x, counts)[x]
    good = (likely >= knobs.translation_least) & (x != EMPTY_WORD)
    order = np.lexsort((y[good], -likely[good], x[good]))
    return _collected(zip(x[good][order].tolist(), y[good][order].tolist(), strict=True))


def _chunks(store: Store, rows: Ids) -> Iterator[tuple[Ids, Ids]]:
    """All pairs of a source and a target token, in chunks of sentences: x * V + y, and the index of y's occurrence."""
    cells: list[Ids] = []
    places: list[Ids] = []
    size = start = 0
    for row in rows:
        source, target = (side[side >= SPECIAL].astype(np.int64) for side in store.pair(int(row)))
        x = np.append(source, EMPTY_WORD)
        cells.append((x[:, None] * store.target_vocabulary + target).ravel())
        places.append(np.tile(np.arange(start, start + len(target)), len(x)))
        size, start = size + len(cells[-1]), start + len(target)
        if size >= CELLS:
            yield np.concatenate(cells), np.concatenate(places)
            cells, places, size, start = [], [], 0, 0
    if cells:
        yield np.concatenate(cells), np.concatenate(places)
