"""Memory of a process that loads clips does not grow."""

import os

import numpy as np
import pytest

from timesformer.benchmarks.loading import dataset_of, resident_memory
from timesformer.datasets.clips import ClipDataset

WARM_UP, CLIPS = 200, 600
ALLOWED = 12e6  # bytes that allocators and the system keep; 400 clips that are not freed are 40e6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mpeg4", "libx264", "frames"])
def test_memory_does_not_grow_with_the_clips_loaded(tmp_path, make_video, make_frames, kind) -> None:
    frames = [np.full((48, 64, 3), 5 * number, np.uint8) for number in range(16)]
    path = tmp_path / "clip.mp4"
    clip = make_frames(tmp_path / "clip", 16, 64, 48) if kind == "frames" else make_video(path, frames, kind)
    cfg = dataset_of([clip, clip], tmp_path / "dataset")
    cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_JITTER_SCALES, cfg.DATA.SAMPLING_RATE = 64, [64, 72], 2
    dataset = ClipDataset(cfg, "train")
    for number in range(CLIPS):
        if number == WARM_UP:
            before = resident_memory(os.getpid())
        assert dataset[number, number % 2, 0]["readable"]
    assert resident_memory(os.getpid()) - before < ALLOWED
