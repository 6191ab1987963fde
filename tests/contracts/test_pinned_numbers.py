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


def test_every_sentence_stands_in_one_batch_and_another_epoch_has_others(still: Path) -> None:
    store = workplace.inside.store(still / "still.yaml", still / "data/still.src-tgt")
    first, second = (workplace.inside.epoch_rows(store, 256, 1, epoch) for epoch in (0, 1))
    assert sorted(row for batch in first for row in batch) == list(range(300))
    assert first != second


def test_odd_text_gives_the_same_counts_ids_and_text(tmp_path: Path) -> None:
    assert differences(golden("prepared"), workplace.prepared(tmp_path)) == []


def test_scores_and_their_signatures_are_the_same(tmp_path: Path) -> None:
    assert differences(golden("scores"), workplace.scored(tmp_path)) == []
