"""Which numbers of threads are tried, and a model that is loaded for the one in use."""

import pytest
import torch

from janus_cli.lab.threads import Loaded, Threads, candidates, to_try

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("cores", "settings"),
    [
        (1, "1"),
        (2, "1 2 2×1"),
        (3, "1 3 3×1"),
        (4, "1 2 4 2×1 2×2 4×1"),
        (12, "1 3 6 12 3×2 6×1 3×4 6×2 12×1"),
    ],
)
def test_one_thread_all_cores_and_halves_are_tried_and_workers_that_fill_all_or_half(cores: int, settings: str) -> None:
    found = candidates(cores)
    assert " ".join(map(str, found)) == settings
    assert all(workers * each <= cores for workers, each in found)


def test_a_number_that_the_user_fixed_is_the_only_one() -> None:
    assert to_try(5, CPU) == to_try(5, torch.device("cuda")) == [Threads(1, 5)]
    assert Threads(1, 1) in to_try(None, CPU)
    assert to_try(None, torch.device("cuda")) == [Threads(1, torch.get_num_threads())]


def test_a_model_is_loaded_once_for_each_change_of_threads_and_one_at_a_time() -> None:
    loads: list[Threads] = []
    held: set[Threads] = set()

    class Model:
        def __init__(self, threads: Threads) -> None:
            self.threads = threads
            assert not held
            loads.append(threads)
            held.add(threads)

        def __del__(self) -> None:
            held.discard(self.threads)

    loaded = Loaded(Model)
    assert not loads
    assert loaded.model.threads.workers == 1
    for threads in (Threads(2, 3), Threads(2, 3), Threads(1, 9)):
        loaded.use(threads)
        assert loaded.model.threads == threads
    assert loads[1:] == [Threads(2, 3), Threads(1, 9)]
