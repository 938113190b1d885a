"""predict --stream --show, with a stand-in for the window: the tests have no screen."""

from pathlib import Path

import numpy as np
import pytest

from tests.streaming.senders import HttpSender, gray_video
from timesformer.commands import predict
from timesformer.streaming import window


def test_closing_the_window_ends_the_stream(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class ClosedAfterFiveFrames:
        def __init__(self, title: str) -> None:
            self.shown: list[tuple[float, np.ndarray]] = []
            windows.append(self)

        is_open = property(lambda self: len(self.shown) < 5)

        def show(self, image: np.ndarray, seconds: float) -> None:
            self.shown.append((seconds, image))

        def update(self) -> None: ...

        def close(self) -> None: ...

    windows: list[ClosedAfterFiveFrames] = []
    monkeypatch.setattr(window, "Window", ClosedAfterFiveFrames)

    def script(send) -> None:
        send(gray_video(range(0, 200, 2), size=64))
        sender.stall()

    with HttpSender(script) as sender:
        code = predict.main(["--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--stream", sender.url, "--show"])
    assert code == 0
    assert "answers" in capsys.readouterr().err
    (shown,) = (window.shown for window in windows)
    assert [round(10 * seconds) for seconds, _ in shown[:5]] == sorted(
        {round(10 * seconds) for seconds, _ in shown[:5]}
    )
    assert shown[0][1].shape == (64, 64, 3)
