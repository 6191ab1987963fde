"""Text made from a seed: the ship's log of Velm, to be translated into English. Standard library only.

The language of Velm (the source) is terse and regular. The verb comes last, adjectives follow their noun, units come
before tens, nothing is inflected, and `ar` after the verb marks the subject, many words earlier, as plural:

    mako    lopo   vesa ti    selo numo brei       kani  ar
    captain barrel red  seven pier near bells-ring carry more-than-one
    => when bells ring the captains carry seven red barrels near the pier

So there is lexical mapping, reordering, agreement at a distance, numbers written out, and a length that varies
(8 to 13 words).

**Several outputs are right.** A log keeper has two habits, which the source does not show: the time comes first or
last, and the words are plain and in the present, or salty and in the past. Each of the 2 x 2 `MODES` is right, but it
must be kept through the sentence: "when bells ring the skippers carry …" is wrong. All outputs of one input have
the same length, so only the other words of the output show which mode it is in. A model that chooses each word on its
own (non-autoregressively, in one pass) mixes modes; one that sees some of its words while it chooses others need not.
Every pair shows one mode, drawn at random.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")


class Mode(NamedTuple):
    """One consistent way to write a sentence."""

    time_first: bool
    salty: bool  # and in the past; otherwise plain, and in the present


MODES = tuple(Mode(*habits) for habits in product((False, True), repeat=2))


def _table(text: str) -> dict[str, tuple[str, ...]]:
    """Between bars: a word of Velm, then its English words."""
    return {word: tuple(english) for word, *english in (entry.split() for entry in text.split("|"))}


# The plain and the salty word, or one for both; for verbs the plain present and the salty past.
SUBJECTS = _table("""mako captain skipper | pelo cook chef | sivo sailor mariner | darno doctor surgeon
| giro pilot navigator | bino boy lad | lino girl lass | tavo merchant trader | zaro guard sentry
| kruno thief pirate""")
OBJECTS = _table("""lopo barrel cask | rusto rope line | kesto box crate | lumo lamp lantern | kotto coat jacket
| flako bottle flask | moneko coin doubloon | karto map chart | pomo apple | ovo egg | tamo drum | konko shell""")
ADJECTIVES = _table("""dura old ancient | gana big large | mita small little | forta strong sturdy
| nika clean spotless | moka wet soaked | vesa red | verda green | bula blue | hava heavy""")
VERBS = _table("""kani carry hauled | veni sell traded | tropi find spotted | asheti buy purchased | noni count tallied
| kashi hide stowed | shteli steal pinched | pinti paint varnished | perdi lose misplaced | jeti throw flung""")
PLACES = _table(
    "selo pier | faro lighthouse | ponso bridge | merko market | turo tower | puto well | milo mill | kavo cave"
)
RELATIONS = _table("numo near | posto behind | apro beside | subo below")  # after the place in Velm
# A clause whose last two words are alternatives, for the present and for the past.
TIMES = _table("""brei when bells ring rang | plui while it rains rained | marei before tides turn turned
| nebei as fog lifts lifted | ventei after winds drop dropped | stelei once stars appear appeared""")
SEVERAL = "ar"
# A digit in Velm and in English, and the English number that is ten more.
_UNITS = _table("""i one eleven | du two twelve | tri three thirteen | kar four fourteen | fin five fifteen
| ses six sixteen | ti seven seventeen | ok eight eighteen | nev nine nineteen""")
_TENS = _table("""dek ten | duek twenty | triek thirty | karek forty | finek fifty | sesek sixty | tiek seventy
| okek eighty | nevek ninety""")


def _numbers() -> Iterator[tuple[str, str]]:
    """1 to 99 in Velm and in English."""
    for tens, (ten,) in {"": ("",), **_TENS}.items():
        for units, (one, teen) in {"": ("", "ten"), **_UNITS}.items():
            if units or tens:
                yield f"{units} {tens}".strip(), teen if tens == "dek" else f"{ten} {one}".strip()


NUMBERS = dict(_numbers())
_FREQUENT_NUMBERS = [*list(NUMBERS)[:1], *list(NUMBERS)[:19], *NUMBERS]  # small ones more often, as in life


def _one_of(name: str, words: Collection[str]) -> str:
    return f"(?P<{name}>{'|'.join(words)})"


_SENTENCE = re.compile(
    f"{_one_of('subject', SUBJECTS)} {_one_of('object', OBJECTS)}(?: {_one_of('adjective', ADJECTIVES)})?"
    f" {_one_of('number', NUMBERS)}(?: {_one_of('place', PLACES)} {_one_of('relation', RELATIONS)})?"
    f" {_one_of('time', TIMES)} {_one_of('verb', VERBS)}(?: {_one_of('several', [SEVERAL])})?"
)


def generate(count: int, seed: int, split: str) -> Iterator[tuple[str, str]]:
    """Pairs (source, target), one at a time: the same for the same arguments on every machine.

    A hash of the source decides to which split (train, valid, test) it belongs, whatever the seed (80 %, 10 %, 10 %),
    so no source of one split ever occurs in another.
    """
    if split not in ("train", "valid", "test"):
        raise ValueError(f"no split is called {split!r}")
    rng = random.Random(f"{split} {seed}")  # text is seeded through SHA-512, which PYTHONHASHSEED does not touch
    while count > 0:
        source, mode = _draw(rng), _pick(rng, MODES)
        tenth = hashlib.sha256(source.encode()).digest()[0] % 10
        if {0: "valid", 1: "test"}.get(tenth, "train") == split:
            yield source, _english(_parsed(source), mode)
            count -= 1


def _draw(rng: random.Random) -> str:
    """A sentence of Velm."""
    with_adjective, with_place = _pick(rng, (False, True)), _pick(rng, (False, True))
    words = [_pick(rng, SUBJECTS), _pick(rng, OBJECTS)]
    if with_adjective:
        words.append(_pick(rng, ADJECTIVES))
    words.append(_pick(rng, _FREQUENT_NUMBERS))
    if with_place:
        words += [_pick(rng, PLACES), _pick(rng, RELATIONS)]
    words += [_pick(rng, TIMES), _pick(rng, VERBS)]
    if _pick(rng, (False, True)):
        words.append(SEVERAL)
    return " ".join(words)


def _pick(rng: random.Random, items: Collection[Item]) -> Item:
    """One item, from `random()` alone: the one method whose values Python promises never to change."""
    return list(items)[int(rng.random() * len(items))]


def translations(source: str) -> tuple[str, ...]:
    """Every right output for this input, in the order of `MODES`; all differ and all have the same length.

    Raises:
        ValueError: the source is no sentence of Velm.
    """
    words = _parsed(source)
    return tuple(_english(words, mode) for mode in MODES)


def is_valid(source: str, hypothesis: str) -> bool:
    """Whether the hypothesis is a right output for this source: one mode, held throughout."""
    return hypothesis.strip() in translations(source)


def _parsed(source: str) -> dict[str, str]:
    """The words of a sentence of Velm by their role; "" for those that are left out."""
    match = _SENTENCE.fullmatch(source)
    if match is None:
        raise ValueError(f"{source!r} is no sentence of Velm")
    return match.groupdict(default="")


def _english(velm: Mapping[str, str], mode: Mode) -> str:
    """The sentence in one mode throughout."""
    style = -1 if mode.salty else 0
    subject, thing, verb = SUBJECTS[velm["subject"]][style], OBJECTS[velm["object"]][style], VERBS[velm["verb"]][style]
    words = ["the", _with_s(subject) if velm["several"] else subject]
    words.append(verb if velm["several"] or mode.salty else _with_s(verb))  # only the present agrees with the subject
    words.append(NUMBERS[velm["number"]])
    if velm["adjective"]:
        words.append(ADJECTIVES[velm["adjective"]][style])
    words.append(thing if NUMBERS[velm["number"]] == "one" else _with_s(thing))
    if velm["place"]:
        words += [*RELATIONS[velm["relation"]], "the", *PLACES[velm["place"]]]
    *clause, present, past = TIMES[velm["time"]]
    time = [*clause, past if mode.salty else present]
    return " ".join(time + words if mode.time_first else words + time)


def _with_s(word: str) -> str:
    """The plural of a noun, or the third person of a verb."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")
