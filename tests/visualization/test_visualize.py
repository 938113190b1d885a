"""tools/visualize.py: the pictures it writes, and its errors."""

import io
import logging
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import load_command
from tests.visualization.conftest import MakeCheckpoint, MakeVideo
from timesformer.datasets.clips import SampledClip
from timesformer.visualization.attention_strip import attention_strip

Visualize = Callable[..., tuple[int, str]]


@pytest.fixture
def visualize(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> Visualize:
    """visualize(arguments): exit code and output of the tool in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    caplog.set_level(logging.INFO)

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["visualize.py", *map(str, arguments)])
        try:
            code = load_command("visualize").main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, caplog.text + capsys.readouterr().err

    return run


@pytest.fixture
def video(moving_patch: MakeVideo) -> Path:
    return moving_patch([(0, 2), (1, 3), (2, 4), (3, 5)])


@pytest.mark.slow
def test_picture_and_overlays_are_written(visualize: Visualize, video: Path, bright_seeker: MakeCheckpoint) -> None:
    checkpoint = bright_seeker()
    code, output = visualize("--checkpoint", checkpoint, video, "--overlay", "new/over.gif", "--time-of-patch", 1, 2)
    assert code == 0, output
    assert "still 78" in output
    with Image.open("moving_attention.png") as picture:
        assert picture.width > 700
    with Image.open("new/over.gif") as moving:
        assert (moving.n_frames, moving.size, moving.info["duration"], moving.info["loop"]) == (4, (256, 256), 250, 0)
    arguments = ["--method", "cls", "--block", 0, "--head", 0, "--overlay", "over.mp4", "--fps", 2, "--output", "x.png"]
    assert visualize("--checkpoint", checkpoint, video, "--crops", 3, "--view", 2, *arguments)[0] == 0
    with av.open("over.mp4") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 2
    assert [frame.shape for frame in frames] == [(256, 256, 3)] * 4
    # Of the crop at the right, the bright patch of the third frame is the first one in the third row.
    assert frames[2][128:192, :64].mean() > frames[2][128:192, 64:].mean() + 100
    assert not list(Path().rglob("*.partial"))
    Path("moving_attention.png").write_text("mine")
    assert visualize("--checkpoint", checkpoint, video)[0] == 2
    assert Path("moving_attention.png").read_text() == "mine"
    assert visualize("--checkpoint", checkpoint, video, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--output", "strip.jpg"], "strip.jpg"),
        (["--overlay", "over.avi"], "over.avi"),
        (["--frames", "0"], "--frames"),
        (["--view", "1"], "--view"),
        (["--method", "cls", "--head", "3"], "head 3"),
        (["--time-of-patch", "4", "0"], "patch 4 0"),
    ],
)
def test_invalid_arguments_are_named(
    arguments: list[str], named: str, visualize: Visualize, video: Path, bright_seeker: MakeCheckpoint
) -> None:
    code, output = visualize("--checkpoint", bright_seeker(), video, *arguments)
    assert code == 2
    assert named in output
    assert not list(Path().iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("total", "most", "expected"), [(4, 3, [0, 2, 3]), (31, 16, list(range(0, 31, 2)))])
def test_strip_shows_frames_evenly(total: int, most: int, expected: list[int]) -> None:
    colors = np.array([(10 + number, 200, 120) for number in range(total)], np.uint8)
    frames = np.broadcast_to(colors[:, None, None], (total, 32, 48, 3))
    clip = SampledClip(torch.zeros(0), frames, tuple(range(total)), tuple(np.arange(total) / 25), 0)
    maps = np.random.default_rng(1).random((total, 2, 3))
    content = attention_strip(clip, maps, [("a$b$\udcff" * 20, 0.9)], "no\nUTF-8: \udcff" * 30, "", most)
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).reshape(-1, 3)
    assert [n for n, color in enumerate(colors) if (pixels == color).all(axis=1).sum() > 2000] == expected
