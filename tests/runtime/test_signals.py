"""When a signal stops a process."""

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.patience import PATIENCE
from timesformer.runtime import signals
from timesformer.runtime.signals import StopRequested, defer_signals, graceful_shutdown, raise_if_interrupted

each_signal = pytest.mark.parametrize("number", signals.STOPPING)


@pytest.fixture(autouse=True)
def _handlers() -> None:
    signals.install_signal_handlers()


def interruption(work: Callable[[], object]) -> tuple[type[KeyboardInterrupt], int]:
    """Type and signal of the interruption that `work` raises."""
    with pytest.raises(KeyboardInterrupt) as raised:
        work()
    return type(raised.value), *raised.value.args


@each_signal
def test_a_signal_raises_at_once(number: int) -> None:
    assert interruption(lambda: signal.raise_signal(number)) == (KeyboardInterrupt, number)
    assert signals.exit_code(KeyboardInterrupt(number)) == (
        75 if number in (signal.SIGUSR1, signal.SIGUSR2) else 128 + number
    )


def test_a_deferred_signal_raises_once_at_the_end() -> None:
    done = []

    def work() -> None:
        with defer_signals():
            with defer_signals():
                signal.raise_signal(signal.SIGTERM)
                done.append("inner")
            done.append("outer")

    assert interruption(work) == (KeyboardInterrupt, signal.SIGTERM)
    assert done == ["inner", "outer"]
    with defer_signals():
        pass


@each_signal
@pytest.mark.parametrize("is_distributed", [True, False])
def test_graceful_shutdown_holds_a_signal_back(
    monkeypatch: pytest.MonkeyPatch, number: int, is_distributed: bool
) -> None:
    monkeypatch.setattr(signals, "REPEATED", PATIENCE)

    def work() -> None:
        with graceful_shutdown(is_distributed):
            signals.stop_if_requested()
            signal.raise_signal(number)
            assert signals.requested_signal() == number
            signal.raise_signal(number if is_distributed else signal.SIGTERM)  # repeated by a launcher
            raise_if_interrupted()
            signals.stop_if_requested()

    assert interruption(work) == (StopRequested, number)
    assert interruption(lambda: signals.stop_if_requested(signal.SIGUSR1)) == (StopRequested, signal.SIGUSR1)


@pytest.mark.parametrize("first", [signal.SIGUSR1, signal.SIGINT])
def test_a_second_signal_raises_at_once(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    second = signal.SIGINT if first == signal.SIGINT else signal.SIGTERM
    if second != signal.SIGINT:
        monkeypatch.setattr(signals, "REPEATED", 0.0)

    def work() -> None:
        with graceful_shutdown():
            signal.raise_signal(first)
            signal.raise_signal(second)

    assert interruption(work) == (KeyboardInterrupt, second)


@pytest.mark.parametrize("may_stop", [True, False])
def test_a_signal_stops_the_wait_for_an_item_where_it_may(may_stop: bool) -> None:
    reached = []

    def items() -> Iterator[int]:
        yield 0
        signal.raise_signal(signal.SIGTERM)
        reached.append(1)
        yield 1
        reached.append(2)

    def work() -> None:
        with graceful_shutdown():
            for _ in signals.stoppable(items(), lambda: may_stop or len(reached) > 0):
                pass

    assert interruption(work) == (StopRequested, signal.SIGTERM)
    assert reached == ([] if may_stop else [1])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_swallowed_by_a_destructor_is_raised_again() -> None:
    class Swallowing:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    raise_if_interrupted()
    Swallowing()
    assert interruption(raise_if_interrupted) == (KeyboardInterrupt, signal.SIGTERM)
