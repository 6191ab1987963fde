"""Text made from a seed: the ship's log of Velm, to be translated into English. Standard library only.

The language of Velm (the source) is terse and regular. The verb stands last, adjectives follow their noun, units come
before tens, nothing is inflected, and `ar` after the verb says that the subject, many words earlier, is more than one:

    mako    lopo   vesa ti    selo numo brei       kani  ar
    captain barrel red  seven pier near bells-ring carry more-than-one
    => when bells ring the captains carry seven red barrels near the pier

So there is lexical mapping, reordering, agreement at a distance, numbers written out, and a length that varies
(8 to 13 words).

**Several outputs are right.** A log keeper has two habits, which the source does not tell: the time comes first or
last, and the words are plain and in the present, or salty and in the past. Each of the 2 x 2 `MODES` is right, but it
must be held through the sentence: "when bells ring the skippers carry …" is wrong. All outputs of one input have
the same length, so only the other words of the output tell which mode is on. A model that chooses each word on its own
(non-autoregressively, in one pass) mixes modes; one that sees some of its words while it chooses others need not.
Every pair shows one mode, drawn at random.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")


class Mode(NamedTuple):
    """One consistent way to write a sentence."""

    time_first: bool
    salty: bool  # and in the past; otherwise plain, and in the present


MODES = tuple(Mode(*habits) for habits in product((False, True), repeat=2))

# Between bars: the word of Velm, then the plain and the salty English word, or one English word that serves both.
_SUBJECTS = """mako captain skipper | pelo cook chef | sivo sailor mariner | darno doctor surgeon | giro pilot navigator
| bino boy lad | lino girl lass | tavo merchant trader | zaro guard sentry | kruno thief pirate"""
_OBJECTS = """lopo barrel cask | rusto rope line | kesto box crate | lumo lamp lantern | kotto coat jacket
| flako bottle flask | moneko coin doubloon | karto map chart | pomo apple | ovo egg | tamo drum | konko shell"""
_ADJECTIVES = """dura old ancient | gana big large | mita small little | forta strong sturdy | nika clean spotless
| moka wet soaked | vesa red | verda green | bula blue | hava heavy"""
_PLACES = "selo pier | faro lighthouse | ponso bridge | merko market | turo tower | puto well | milo mill | kavo cave"
_RELATIONS = "numo near | posto behind | apro beside | subo below"  # after the place in Velm, before it in English
# The plain present and the salty past.
_VERBS = """kani carry hauled | veni sell traded | tropi find spotted | asheti buy purchased | noni count tallied
| kashi hide stowed | shteli steal pinched | pinti paint varnished | perdi lose misplaced | jeti throw flung"""
# A clause; of its two last words one is for the present and one for the past.
_TIMES = """brei when bells ring rang | plui while it rains rained | marei before tides turn turned
| nebei as fog lifts lifted | ventei after winds drop dropped | stelei once stars appear appeared"""
_UNITS = ("i", "du", "tri", "kar", "fin", "ses", "ti", "ok", "nev")
_TENS = ("dek", "duek", "triek", "karek", "finek", "sesek", "tiek", "okek", "nevek")
_UNITS_ENGLISH = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS_ENGLISH = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
                  "nineteen")  # fmt: skip
_TENS_ENGLISH = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SEVERAL = "ar"


def _entries(text: str) -> dict[str, tuple[str, ...]]:
    """Word of Velm -> its English words."""
    return {word: tuple(english) for word, *english in (entry.split() for entry in text.split("|"))}


def _two_habits(text: str) -> dict[str, tuple[str, ...]]:
    """Word of Velm -> (plain, salty), the same word twice where there is only one."""
    return {word: (english[0], english[-1]) for word, english in _entries(text).items()}


SUBJECTS, OBJECTS, ADJECTIVES = _two_habits(_SUBJECTS), _two_habits(_OBJECTS), _two_habits(_ADJECTIVES)
PLACES, RELATIONS, VERBS, TIMES = _entries(_PLACES), _entries(_RELATIONS), _entries(_VERBS), _entries(_TIMES)


def _any_of(words: Iterable[str]) -> str:
    return f"({'|'.join(words)})"


_PATTERN = re.compile(
    f"{_any_of(SUBJECTS)} {_any_of(OBJECTS)}(?: {_any_of(ADJECTIVES)})?(?: {_any_of(_UNITS)})?(?: {_any_of(_TENS)})?"
    f"(?: {_any_of(PLACES)} {_any_of(RELATIONS)})? {_any_of(TIMES)} {_any_of(VERBS)}( {_SEVERAL})?"
)


@dataclass(frozen=True)
class Sentence:
    """What one sentence says, in words of Velm; "" where it does not say."""

    subject: str
    object: str
    adjective: str  # of the object
    number: int  # of objects, 1 to 99
    place: str
    relation: str  # "" exactly where `place` is
    time: str
    verb: str
    several: bool  # subjects

    def source(self) -> str:
        """The sentence in Velm."""
        tens, units = divmod(self.number, 10)
        number = [_UNITS[units - 1]] * bool(units) + [_TENS[tens - 1]] * bool(tens)
        words = [self.subject, self.object, self.adjective, *number]
        words += [self.place, self.relation, self.time, self.verb, _SEVERAL * self.several]
        return " ".join(filter(None, words))

    def target(self, mode: Mode) -> str:
        """The sentence in English, in one mode throughout."""
        subject, thing, verb = (
            table[word][mode.salty]
            for table, word in ((SUBJECTS, self.subject), (OBJECTS, self.object), (VERBS, self.verb))
        )
        words = ["the", _with_s(subject) if self.several else subject]
        words += [verb if self.several or mode.salty else _with_s(verb)]  # only the present agrees with the subject
        words += _in_english(self.number)
        words += [ADJECTIVES[self.adjective][mode.salty]] if self.adjective else []
        words += [thing if self.number == 1 else _with_s(thing)]
        if self.place:
            words += [*RELATIONS[self.relation], "the", *PLACES[self.place]]
        *clause, present, past = TIMES[self.time]
        time = [*clause, past if mode.salty else present]
        return " ".join(time + words if mode.time_first else words + time)


def generate(count: int, seed: int, split: str) -> Iterator[tuple[str, str]]:
    """Pairs (source, target), one at a time: the same for the same arguments on every machine.

    A hash of the source decides to which split (train, valid, test) it belongs, whatever the seed (80 %, 10 %, 10 %),
    so no source of one split ever occurs in another.
    """
    if split not in ("train", "valid", "test"):
        raise ValueError(f"no split is called {split!r}")
    rng = random.Random(f"{split} {seed}")  # text is seeded through SHA-512, which PYTHONHASHSEED does not touch
    while count > 0:
        sentence = _draw(rng)
        mode = _pick(rng, MODES)
        source = sentence.source()
        tenth = hashlib.sha256(source.encode()).digest()[0] % 10
        if {0: "valid", 1: "test"}.get(tenth, "train") == split:
            yield source, sentence.target(mode)
            count -= 1


def translations(source: str) -> tuple[str, ...]:
    """Every right output for this input, in the order of `MODES`; all differ and all have the same length.

    Raises:
        ValueError: the source is no sentence of Velm.
    """
    match = _PATTERN.fullmatch(source)
    subject, thing, adjective, units, tens, place, relation, time, verb, several = (
        [group or "" for group in match.groups()] if match else [""] * 10
    )
    number = 10 * (tens in _TENS and _TENS.index(tens) + 1) + (units in _UNITS and _UNITS.index(units) + 1)
    if not number:
        raise ValueError(f"{source!r} is no sentence of Velm")
    sentence = Sentence(subject, thing, adjective, number, place, relation, time, verb, bool(several))
    return tuple(sentence.target(mode) for mode in MODES)


def is_valid(source: str, hypothesis: str) -> bool:
    """Whether the hypothesis is a right output for this source: one mode, held throughout."""
    return hypothesis.strip() in translations(source)


def _draw(rng: random.Random) -> Sentence:
    adjective, place = _pick(rng, (False, True)), _pick(rng, (False, True))
    return Sentence(
        subject=_pick(rng, list(SUBJECTS)),
        object=_pick(rng, list(OBJECTS)),
        adjective=_pick(rng, list(ADJECTIVES)) if adjective else "",
        number=_pick(rng, (1, *range(1, 20), *range(1, 100))),  # small numbers are more frequent, as in life
        place=_pick(rng, list(PLACES)) if place else "",
        relation=_pick(rng, list(RELATIONS)) if place else "",
        time=_pick(rng, list(TIMES)),
        verb=_pick(rng, list(VERBS)),
        several=_pick(rng, (False, True)),
    )


def _pick(rng: random.Random, items: Sequence[Item]) -> Item:
    """One item, from `random()` alone: the one method whose values Python promises never to change."""
    return items[int(rng.random() * len(items))]


def _in_english(number: int) -> list[str]:
    tens, units = divmod(number, 10)
    if tens == 1:
        return [_TEENS_ENGLISH[units]]
    return [_TENS_ENGLISH[tens - 2]] * bool(tens) + [_UNITS_ENGLISH[units - 1]] * bool(units)


def _with_s(word: str) -> str:
    """The plural of a noun, or the third person of a verb."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")
