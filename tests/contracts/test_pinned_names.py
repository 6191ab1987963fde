"""Names that users and their scripts rely on: options, knobs with their defaults, files, keys, tensors."""

from pathlib import Path
from typing import Any

import pytest
import workplace
from workplace import differences, golden, janus, vanished


def test_no_option_choice_or_argument_vanishes() -> None:
    assert vanished(golden("options"), workplace.options()) == []


@pytest.mark.parametrize("verb", workplace.VERBS)
def test_help_is_data_and_an_unknown_option_a_mistake(verb: str, tmp_path: Path) -> None:
    for flag in ("--help", "-h"):
        code, out, err = janus(tmp_path, verb, flag)
        assert (code, err, f"Usage: janus {verb}" in out) == (0, "", True)
    code, out, err = janus(tmp_path, verb, "--no-such-option")
    assert (code, out, err.startswith("error: "), "\nhint: " in err) == (2, "", True, True)
    assert list(tmp_path.iterdir()) == []


def test_every_knob_keeps_its_name_its_default_and_what_recipes_set() -> None:
    found = workplace.recipes()
    assert differences(golden("recipes"), found) == []
    # Of all but the first, the golden file has what differs from it: nothing else does.
    new = {name: found[name].keys() - knobs.keys() for name, knobs in golden("recipes").items()}
    old = golden("recipes")["demo"]
    assert {name: keys & old.keys() for name, keys in new.items() if keys & old.keys()} == {}


@pytest.fixture(scope="module")
def files(tiny: Path) -> dict[str, Any]:
    return workplace.files(tiny)


@pytest.mark.parametrize("what", golden("files"))
def test_files_lie_where_they_lay_and_hold_what_they_held(files: dict[str, Any], what: str) -> None:
    pinned, found = golden("files")[what], files[what]
    if what in ("manifest of data, counts", "log, kinds", "decoded, labels"):
        assert differences(pinned, found) == []
    elif what.startswith("decoded"):
        assert vanished(dict(enumerate(pinned)), dict(enumerate(found))) == []
    else:
        assert vanished(pinned, found) == []
    if what == "run":
        assert [name for name in found if name not in pinned] == [], "a new file in a run is for `make_golden.py`"


def test_checkpoints_hold_the_same_tensors(still: Path, tiny: Path) -> None:
    pinned, found = golden("formats"), workplace.formats(still, tiny)
    assert differences(pinned, found) == []
    assert {name: tensors.keys() for name, tensors in pinned["beyond those of ar"].items()} == {
        name: tensors.keys() for name, tensors in found["beyond those of ar"].items()
    }


def test_tokenizer_and_text_of_a_run_are_those_of_its_data(tiny: Path) -> None:
    run, data = tiny / "runs/janus", tiny / "data/tiny.src-tgt"
    for name in ("tokenizer.json", "tokenizer.model"):
        assert (run / name).read_bytes() == (data / name).read_bytes()
    assert (run / "decode/test.reference.txt").read_bytes() == (data / "test.target.txt").read_bytes()
    for name in ("test.ar.beam1.txt", "test.nar2.lb5.average-last2.txt"):
        assert (run / "decode" / name).read_bytes().count(b"\n") == 8
