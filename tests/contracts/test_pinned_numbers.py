"""What seeds and text decide: first weights, batches, noise, losses, ids, and scores."""

from pathlib import Path

import pytest
import workplace
from workplace import differences, golden


@pytest.mark.parametrize("run", workplace.RUNS)
def test_a_seed_gives_the_same_first_weights_and_losses(still: Path, run: str) -> None:
    """Losses of two updates and a validation: they take batches, noise, the plan and every term of the objective."""
    assert differences(golden("begin")[run], workplace.beginnings(still)[run]) == []


def test_batches_noise_and_plans_are_drawn_as_before(still: Path) -> None:
    assert differences(golden("draws"), workplace.draws(still)) == []


def test_odd_text_gives_the_same_counts_ids_and_text(tmp_path: Path) -> None:
    assert differences(golden("prepared"), workplace.prepared(tmp_path)) == []


def test_scores_and_their_signatures_are_the_same(tmp_path: Path) -> None:
    assert differences(golden("scores"), workplace.scored(tmp_path)) == []
