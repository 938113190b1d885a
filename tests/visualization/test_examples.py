"""Confusions, and the videos and frames that a report shows as examples."""

import zipfile
from pathlib import Path

import numpy as np
import torch

from timesformer.config import load_config
from timesformer.datasets.clips import ClipDataset, SampledClip
from timesformer.visualization.confusions import count_confusions, most_confused
from timesformer.visualization.examples import (
    least_confident_correct,
    load_clips,
    make_strip,
    most_confident_errors,
    read_strips,
    write_strips,
)
from timesformer.visualization.run_files import Predictions


def predictions(labels: list[int], predicted: list[int], confidence: list[float]) -> Predictions:
    videos = [f"v{number}" for number in range(len(labels))]
    return Predictions(videos, np.array(labels), np.array(predicted)[:, None], np.array(confidence)[:, None])


def test_confusions_are_counted_without_unreadable_videos() -> None:
    counts = count_confusions(predictions([0, 0, 0, 1, 1], [0, 1, 1, 0, -1], [0.5] * 5), 3)
    assert counts.tolist() == [[1, 2, 0], [1, 0, 0], [0, 0, 0]]
    first, second = most_confused(counts)
    assert (first.true, first.predicted, first.count, first.reverse) == (0, 1, 2, 1)
    assert (second.true, second.predicted, second.reverse, second.share) == (1, 0, 2, 100.0)


def test_most_confident_errors_and_least_confident_correct() -> None:
    made = predictions([0, 0, 1, 1, 1, 0], [0, 1, 0, 1, -1, 0], [0.9, 0.6, 0.8, 0.4, np.nan, np.nan])
    assert most_confident_errors(made) == [2, 1]
    assert least_confident_correct(made) == [3, 0, 5]
    assert most_confident_errors(made, among=made.labels == 0) == [1]


def test_strips_are_saved_with_evenly_spaced_frames(tmp_path: Path) -> None:
    frames = np.stack([np.full((20, 30, 3), 15 * number, np.uint8) for number in range(16)])
    clip = SampledClip(torch.zeros(3, 16, 20, 30), frames, tuple(range(16)), tuple(n / 10 for n in range(16)), 0)
    strip = make_strip(clip)
    assert (strip.sampled, strip.numbers[0], strip.numbers[-1], len(strip.numbers)) == (16, 0, 15, 8)
    assert strip.times[-1] == 1.5
    path = tmp_path / "frames.zip"
    write_strips(path, {"a": strip, "b/c\udce9": strip})
    assert read_strips(path) == {"a": strip, "b/c\udce9": strip}
    assert zipfile.ZipFile(path).testzip() is None
    path.write_bytes(b"PK torn")
    assert read_strips(path) == {}
    assert read_strips(tmp_path / "absent.zip") == {}


def test_examples_show_the_scored_clip(tiny_command: list[str]) -> None:
    options = ["DATA.REVERSE_INPUT_CHANNEL", "True", "TEST.NUM_SPATIAL_CROPS", "3", "TEST.NUM_ENSEMBLE_VIEWS", "2"]
    cfg = load_config(tiny_command[1], [*tiny_command[2:], *options])
    ((name, clip),) = load_clips(cfg, ["walk/test1", "absent"])
    dataset = ClipDataset(cfg, "test")
    number = list(dataset.records.names).index(name)
    scored = dataset[number * 6 + 1]["clip"]  # the middle crop of the first of two clips
    assert torch.equal(clip.clip, scored)
    assert np.array_equal(clip.frames, scored.flip(0).permute(1, 2, 3, 0).numpy())
