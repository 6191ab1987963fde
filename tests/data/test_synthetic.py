"""The invented language: deterministic, split without overlap, and several outputs right for one input."""

import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_cli.data import synthetic
from janus_cli.data.synthetic import MODES, generate, is_valid, translations

SEVEN_BARRELS = "mako lopo vesa ti selo numo brei kani ar"
PAIRS = list(generate(400, 7, "train"))


def test_all_outputs_of_a_sentence() -> None:
    assert translations(SEVEN_BARRELS) == (
        "the captains carry seven red barrels near the pier when bells ring",
        "the skippers hauled seven red casks near the pier when bells rang",
        "when bells ring the captains carry seven red barrels near the pier",
        "when bells rang the skippers hauled seven red casks near the pier",
    )
    assert translations("zaro kesto i plui noni") == (  # one subject: "counts"; one object: "box"
        "the guard counts one box while it rains",
        "the sentry tallied one crate while it rained",
        "while it rains the guard counts one box",
        "while it rained the sentry tallied one crate",
    )
    for words, english in (
        ("nev", "nine"), ("dek", "ten"), ("i dek", "eleven"), ("tri dek", "thirteen"), ("ok dek", "eighteen"),
        ("duek", "twenty"), ("i duek", "twenty one"), ("kar karek", "forty four"), ("nev nevek", "ninety nine"),
    ):  # fmt: skip
        assert translations(f"pelo ovo {words} brei veni")[0] == f"the cook sells {english} eggs when bells ring"
    for source in ("", "mako", "mako lopo brei kani", "mako lopo ti brei kani ar ar", "lopo mako ti brei kani",
                   f"{SEVEN_BARRELS}\n", "mako lopo ti selo brei kani"):  # fmt: skip
        with pytest.raises(ValueError, match="no sentence of Velm"):
            translations(source)


def test_the_same_arguments_give_the_same_text_and_others_do_not() -> None:
    assert list(generate(400, 7, "train")) == PAIRS
    assert list(generate(10, 7, "train")) == PAIRS[:10]
    assert list(generate(400, 8, "train")) != PAIRS
    assert list(generate(0, 7, "train")) == []


def test_text_is_the_same_in_every_process() -> None:
    # Hash seed and locale must not matter; the literal guards against a change of the text between versions.
    script = (
        "import sys; from janus_cli.data.synthetic import generate;"
        "sys.stdout.buffer.write('\\n'.join('\\t'.join(pair) for pair in generate(50, 3, 'test')).encode())"
    )
    outputs = set()
    for changes in ({"PYTHONHASHSEED": "0", "LC_ALL": "C"}, {"PYTHONHASHSEED": "77", "LC_ALL": "C.UTF-8"}):
        command = [sys.executable, "-c", script]
        outputs.add(subprocess.run(command, env={**os.environ, **changes}, capture_output=True, check=True).stdout)
    here = "\n".join("\t".join(pair) for pair in generate(50, 3, "test")).encode()
    assert outputs == {here}
    assert here.startswith(
        b"tavo lopo vesa ti finek kavo numo stelei kashi\t"
        b"once stars appeared the trader stowed fifty seven red casks near the cave\n"
    )


def test_no_source_of_one_split_occurs_in_another() -> None:
    sources = {split: {source for source, _ in generate(3000, 1, split)} for split in ("train", "valid", "test")}
    other_seed = {source for source, _ in generate(3000, 2, "train")}
    assert not (sources["train"] | other_seed) & (sources["valid"] | sources["test"])
    assert not sources["valid"] & sources["test"]
    with pytest.raises(ValueError, match="dev"):
        next(generate(1, 1, "dev"))


def test_every_generated_target_is_right_and_every_mode_occurs() -> None:
    modes: Counter[int] = Counter()
    for source, target in PAIRS:
        assert is_valid(source, target)
        modes[translations(source).index(target)] += 1
    assert set(modes) == set(range(len(MODES)))
    assert max(modes.values()) < 2 * min(modes.values())  # no mode to prefer


def test_texts_look_as_promised() -> None:
    pairs = list(generate(4000, 1, "train"))
    lengths = {len(target.split()) for _, target in pairs}
    assert lengths == set(range(8, 14))
    assert 60 < len({word for source, _ in pairs for word in source.split()}) < 100
    assert 150 < len({word for _, target in pairs for word in target.split()}) < 250
    for source, _ in pairs[:300]:
        outputs = translations(source)
        assert len(set(outputs)) == len(MODES)
        assert len({len(output.split()) for output in outputs}) == 1


@given(
    pair=st.sampled_from(PAIRS),
    first=st.sampled_from(range(len(MODES))),
    second=st.sampled_from(range(len(MODES))),
    cut=st.integers(1, 13),
)
def test_mixing_two_modes_is_wrong(pair: tuple[str, str], first: int, second: int, cut: int) -> None:
    outputs = translations(pair[0])
    mixed = " ".join(outputs[first].split()[:cut] + outputs[second].split()[cut:])
    # A cut before or after all that tells the two modes apart gives one of the two; every other cut gives nonsense.
    assert is_valid(pair[0], mixed) == (mixed in (outputs[first], outputs[second]))


@given(pair=st.sampled_from(PAIRS), mode=st.sampled_from(range(len(MODES))), data=st.data())
def test_one_word_of_the_other_style_or_a_missing_one_is_wrong(
    pair: tuple[str, str], mode: int, data: st.DataObject
) -> None:
    outputs = translations(pair[0])
    words, other = outputs[mode].split(), outputs[mode ^ 1].split()  # the same order
    places = [place for place, (word, changed) in enumerate(zip(words, other, strict=True)) if word != changed]
    assert len(places) >= 3  # the subject, the verb and the time, at least
    place = data.draw(st.sampled_from(places))
    assert not is_valid(pair[0], " ".join([*words[:place], other[place], *words[place + 1 :]]))
    del words[data.draw(st.integers(0, len(words) - 1))]
    assert not is_valid(pair[0], " ".join(words))


def test_no_word_of_velm_has_two_meanings() -> None:
    tables = (synthetic.SUBJECTS, synthetic.OBJECTS, synthetic.ADJECTIVES, synthetic.PLACES, synthetic.RELATIONS,
              synthetic.VERBS, synthetic.TIMES, synthetic._UNITS, synthetic._TENS, ["ar"])  # fmt: skip
    count = Counter(word for table in tables for word in table)
    assert set(count.values()) == {1}
