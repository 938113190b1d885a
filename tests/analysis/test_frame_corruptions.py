"""Dropped, shuffled and reversed frames, and videos of other frame rates."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from timesformer.analysis import frame_corruptions as frames
from timesformer.analysis.corruptions import CORRUPTIONS, register_corruption, select_corruptions
from timesformer.datasets.decoding.open import open_video
from timesformer.datasets.transforms.frame_order import shuffled_frames
from timesformer.errors import UserError

KEY = (3, 5, 1)


def test_lost_frames_are_replaced_by_the_one_before() -> None:
    for share in (0.15, 0.5, 0.9):
        order = frames.dropped(11, share, KEY)
        kept = set(order.tolist())
        assert len(kept) == 11 - round(share * 10)
        assert [max(number for number in kept if number <= place) for place in range(11)] == order.tolist()
        assert np.array_equal(order, frames.dropped(11, share, KEY))
    assert frames.dropped(1, 0.9, KEY).tolist() == [0]


def test_shuffled_share() -> None:
    assert np.array_equal(frames.shuffled(8, 1, KEY), shuffled_frames(8, *KEY))
    for share, moved in ((0.2, 2), (0.6, 5)):
        order = frames.shuffled(8, share, KEY)
        assert sorted(order.tolist()) == list(range(8))
        assert 0 < (order != np.arange(8)).sum() <= moved
    assert frames.shuffled(1, 1, KEY).tolist() == [0]


def test_reversed_share() -> None:
    assert frames.backwards(10, 0.2, KEY).tolist() == [1, 0, 2, 3, 4, 5, 6, 7, 8, 9]
    assert frames.backwards(5, 0.6, KEY).tolist() == [2, 1, 0, 3, 4]
    assert frames.backwards(4, 1, KEY).tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("low_frame_rate", 3, [0, 0, 0, 3, 3, 3, 6]),
        ("faster", 2, [0, 2, 4, 6]),
        ("faster", 1.5, [0, 1, 3, 4, 6]),
        ("slower", 1.5, [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6]),
        ("slower", 2, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]),
    ],
)
def test_frame_rates(name: str, value: float, expected: list[int], tmp_path: Path) -> None:
    for number in range(7):
        Image.new("RGB", (8, 8), (30 * number,) * 3).save(tmp_path / f"{number}.png")
    with CORRUPTIONS[name].timing(open_video(tmp_path), value) as video:
        assert (video.read(range(video.num_frames))[:, 0, 0, 0] // 30).tolist() == expected


def test_selection() -> None:
    chosen, severities = select_corruptions(["jpeg", "noise"], ["5", "1"])
    assert ([c.name for c in chosen], severities) == (["gaussian_noise", "shot_noise", "jpeg"], [1, 5])
    assert len(select_corruptions([], [])[0]) == len(CORRUPTIONS)
    for names, numbers, wrong in ((["fog"], [], "fog"), ([], ["6"], "6")):
        with pytest.raises(UserError, match=wrong):
            select_corruptions(names, numbers)
    with pytest.raises(ValueError, match="jpeg"):
        register_corruption("jpeg", "compression", "quality", range(5), pixels=lambda frames, value, rng: frames)
