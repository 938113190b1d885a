"""What a run says, and where."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from timesformer.runtime.logging import STEP, duration, progress_bar, set_up_logging

logger = logging.getLogger("timesformer.tests")


class Screen(io.StringIO):
    """A stand-in for stdout that is a terminal or not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    root = logging.getLogger("timesformer")
    for handler in root.handlers:
        handler.close()
    root.handlers, root.propagate = [], True
    root.setLevel(logging.NOTSET)


def screen_after_an_epoch(monkeypatch: pytest.MonkeyPatch, output: Path, terminal: bool) -> str:
    screen = Screen(terminal)
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "80")
    set_up_logging(output)
    for number in progress_bar(range(3), "epoch 1"):
        logger.log(STEP, "step %d", number)
    logger.info("epoch done")
    return screen.getvalue()


def test_a_terminal_shows_a_bar_in_place_of_lines_for_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = screen_after_an_epoch(monkeypatch, tmp_path, terminal=True)
    assert "epoch 1:   0%" in shown
    assert "0/3 [00:00<" in shown
    assert "step 1" not in shown
    assert shown.endswith("\repoch done\n")  # the bar is gone


def test_a_file_as_screen_gets_lines_for_steps_and_no_bar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = screen_after_an_epoch(monkeypatch, tmp_path, terminal=False)
    assert shown == "step 0\nstep 1\nstep 2\nepoch done\n"


def test_the_log_file_has_every_line_with_its_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    screen_after_an_epoch(monkeypatch, tmp_path, terminal=True)
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [line.split(" ", 3)[3] for line in lines] == ["step 0", "step 1", "step 2", "epoch done"]


def test_names_that_are_no_utf8_are_escaped(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    set_up_logging(tmp_path)
    logger.warning("caf\udce9.mp4 is torn")
    expected = b"caf\\udce9.mp4 is torn\n"
    assert (tmp_path / "run.log").read_bytes().endswith(expected)
    assert capfdbinary.readouterr() == (expected, b"")


def test_errors_go_to_stderr_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    set_up_logging(tmp_path)
    logger.warning("a warning")
    logger.error("an error")
    assert capsys.readouterr() == ("a warning\n", "an error\n")


def test_a_duration_is_hours_minutes_seconds() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.6, 3661)] == ["0:00:00", "0:01:00", "1:01:01"]
