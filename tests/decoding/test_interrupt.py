"""Signals while decoding."""

import signal

import pytest

from janus_cli.device import SIGNALS, Interrupt, interruptible
from janus_cli.errors import Stopped


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_an_exception_and_the_second_one_ends_the_process(number: int) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with interruptible():
        with pytest.raises(Interrupt, match=f"stopped by {signal.Signals(number).name}"):
            signal.raise_signal(number)
        assert {signal.getsignal(each) for each in SIGNALS} == {signal.SIG_DFL}
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_it_ends_as_the_signal_says() -> None:
    with pytest.raises(Stopped) as stopped, interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.exit_code == 143
