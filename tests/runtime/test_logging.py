"""Output of a run on the screen and in files."""

import io
import logging
from pathlib import Path

import pytest

from timesformer.runtime.logging import STEP, duration, progress_bar, set_up_logging

logger = logging.getLogger("timesformer.tests")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_shows_a_bar_instead_of_steps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_terminal: bool
) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: is_terminal
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "80")
    set_up_logging(tmp_path)
    for number in progress_bar(range(3), "epoch 1"):
        logger.log(STEP, "step %d", number)
    logger.info("epoch done")
    shown = screen.getvalue()
    if is_terminal:
        assert "0/3 [00:00<" in shown
        assert "step 1" not in shown
        assert shown.endswith("\repoch done\n")
    else:
        assert shown == "step 0\nstep 1\nstep 2\nepoch done\n"
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [line.split(" ", 3)[3] for line in lines] == ["step 0", "step 1", "step 2", "epoch done"]


def test_errors_go_to_stderr_and_invalid_utf8_is_escaped(
    capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    set_up_logging(tmp_path)
    logger.warning("caf\udce9.mp4 is torn")
    logger.error("an error")
    assert capfdbinary.readouterr() == (b"caf\\udce9.mp4 is torn\n", b"an error\n")
    assert b"caf\\udce9.mp4 is torn\n" in (tmp_path / "run.log").read_bytes()


def test_duration() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.6, 3661)] == ["0:00:00", "0:01:00", "1:01:01"]
