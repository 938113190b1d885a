"""Signals stop a run where it may be stopped."""

import signal
from collections.abc import Iterator

import pytest

from timesformer.runtime import signals as interrupts
from timesformer.runtime.signals import (
    StopRequested,
    defer_signals,
    exit_code,
    graceful_shutdown,
    install_signal_handlers,
    raise_if_interrupted,
    requested_signal,
    stop_if_requested,
    stoppable,
)

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def _handlers() -> None:
    install_signal_handlers()


@pytest.mark.parametrize("number", ALL)
def test_a_signal_raises_at_once_with_its_number(number: int) -> None:
    with pytest.raises(KeyboardInterrupt) as raised:
        signal.raise_signal(number)
    assert raised.value.args == (number,)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_what_may_not_be_cut_in_two(number: int) -> None:
    done = []

    def work() -> None:
        with defer_signals():
            with defer_signals():
                signal.raise_signal(number)
                done.append("inner")
            done.append("outer")

    with pytest.raises(KeyboardInterrupt) as raised:
        work()
    assert done == ["inner", "outer"]
    assert raised.value.args == (number,)
    with defer_signals():
        pass  # it is raised once


@pytest.mark.parametrize("number", ALL)
def test_a_block_that_is_patient_learns_of_a_signal_and_obeys_it_when_it_may(number: int) -> None:
    def work() -> None:
        with graceful_shutdown():
            stop_if_requested()
            assert requested_signal() == 0
            signal.raise_signal(number)
            assert requested_signal() == number
            signal.raise_signal(signal.SIGTERM)  # a launcher passes it on, too: still the same request
            raise_if_interrupted()
            stop_if_requested()

    with pytest.raises(StopRequested) as raised:
        work()
    signal.raise_signal(signal.SIGTERM)  # late, but the same
    assert raised.value.args == (number,)


def test_a_signal_that_another_process_got_is_obeyed_too() -> None:
    with pytest.raises(StopRequested) as raised:
        stop_if_requested(signal.SIGUSR1)
    assert raised.value.args == (signal.SIGUSR1,)


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGUSR1, signal.SIGTERM), (signal.SIGUSR1, signal.SIGINT), (signal.SIGINT, signal.SIGINT)],
)
def test_a_second_signal_and_ctrl_c_do_not_wait(monkeypatch: pytest.MonkeyPatch, first: int, second: int) -> None:
    if second != signal.SIGINT:
        monkeypatch.setattr(interrupts, "REPEATED", 0.0)

    def work() -> None:
        with graceful_shutdown():
            signal.raise_signal(first)
            signal.raise_signal(second)
            pytest.fail("the second signal did not stop the block")

    with pytest.raises(KeyboardInterrupt) as raised:
        work()
    assert type(raised.value) is KeyboardInterrupt
    assert raised.value.args == (second,)


@pytest.mark.parametrize("number", ALL)
def test_a_launcher_that_passes_a_signal_on_to_one_of_many_says_the_same_again(number: int) -> None:
    def work() -> None:
        with graceful_shutdown(is_distributed=True):
            signal.raise_signal(number)
            signal.raise_signal(number)
            stop_if_requested()

    with pytest.raises(StopRequested):
        work()


@pytest.mark.parametrize("number", ALL)
def test_a_signal_that_comes_while_a_patient_block_waits_is_obeyed_at_once_where_it_may(number: int) -> None:
    come = []

    def items() -> Iterator[int]:
        yield 0
        signal.raise_signal(number)
        come.append(1)
        yield 1
        come.append(2)

    def work(may_stop: bool) -> None:
        with graceful_shutdown():
            for _ in stoppable(items(), lambda: may_stop or len(come) > 0):
                pass

    for may_stop, expected in ((True, []), (False, [1])):
        install_signal_handlers()  # forgets what came
        with pytest.raises(StopRequested) as raised:
            work(may_stop)
        assert raised.value.args == (number,)
        assert come == expected


@pytest.mark.parametrize("number", ALL)
def test_a_signal_after_a_patient_block_looked_last_is_not_lost(number: int) -> None:
    def work() -> None:
        with graceful_shutdown():
            stop_if_requested()
            signal.raise_signal(number)

    with pytest.raises(KeyboardInterrupt) as raised:
        work()
    assert raised.value.args == (number,)


def test_the_exit_code_asks_for_another_start_where_the_signal_does() -> None:
    codes = {number: exit_code(KeyboardInterrupt(number)) for number in ALL}
    assert codes == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 75, signal.SIGUSR2: 75}
    assert exit_code(KeyboardInterrupt()) == 130


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
    install_signal_handlers()
    signal.raise_signal(signal.SIGINT)
