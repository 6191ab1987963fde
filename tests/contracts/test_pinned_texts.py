"""What every objective decodes in every mode that it has, whatever the batch and the form of the output."""

from pathlib import Path

import pytest
import workplace
from workplace import differences, golden


def test_every_mode_of_every_objective_is_pinned() -> None:
    assert {(run, way) for run, ways in golden("texts").items() for way in ways} == set(workplace.CASES)
    assert {run for run, _ in workplace.CASES} >= set(workplace.OBJECTIVES)


@pytest.mark.parametrize(("run", "way"), workplace.CASES)
def test_the_text_is_what_it_was(still: Path, run: str, way: str) -> None:
    """As JSON 64 lines at a time; as plain text one at a time."""
    pinned = golden("texts")[run][way]
    assert differences(pinned, workplace.text(still, run, way)) == []
    assert workplace.plain(still, run, way, batch=1) == pinned["text"]
    assert len(pinned["text"]) == 20
    assert [number for number, passes in enumerate(pinned["passes"]) if passes == 0] == [9], "the empty line"
