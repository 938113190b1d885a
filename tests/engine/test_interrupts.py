"""Signals stop a run where it may be stopped."""

import signal
from collections.abc import Iterator

import pytest

from timesformer.engine.interrupts import raise_if_interrupted, raise_on_signals, uninterrupted


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    raise_on_signals()
    yield
    raise_on_signals()  # forgets what came
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_at_once_with_its_number(number: int) -> None:
    with pytest.raises(KeyboardInterrupt) as raised:
        signal.raise_signal(number)
    assert raised.value.args == (number,)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_what_may_not_be_cut_in_two(number: int) -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            with uninterrupted():
                signal.raise_signal(number)
                done.append("inner")
            done.append("outer")

    with pytest.raises(KeyboardInterrupt) as raised:
        work()
    assert done == ["inner", "outer"]
    assert raised.value.args == (number,)
    with uninterrupted():
        pass  # it is raised once


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_swallowed_by_a_destructor_is_raised_in_the_next_round() -> None:
    class Swallowing:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    raise_if_interrupted()
    Swallowing()
    with pytest.raises(KeyboardInterrupt) as raised:
        raise_if_interrupted()
    assert raised.value.args == (signal.SIGTERM,)


def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_on_signals()
    signal.raise_signal(signal.SIGINT)
