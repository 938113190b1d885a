"""Positions of samplers for known lengths, and equal to the original's where the rule is the original's."""

import json
import random

import numpy as np
import pytest

from timesformer.config import get_cfg
from timesformer.config.differences import read_saved
from timesformer.config.load import ConfigError
from timesformer.datasets.transforms import sampling
from timesformer.datasets.transforms.sampling import Dense, Equidistant, Random, Segment, Uniform, build_sampler


def positions(sampler: sampling.Sampler, length: int, seed: int = 0, view: int = 0) -> list[int]:
    return sampler.positions(sampling.VideoInfo(length), np.random.RandomState(seed), view)


class PythonRandom(random.Random):
    """Draws with Python's `random`, as the original did, behind the interface of a RandomState."""

    def randint(self, low: int, high: int) -> int:
        return super().randint(low, high - 1)


@pytest.mark.parametrize(
    ("sampler", "length", "expected"),  # positions of each view
    [
        (Uniform(4, 2), 10, [[0, 2, 4, 6]]),
        (Uniform(4, 2, start="center", num_views=3), 20, [[0, 2, 4, 6], [4, 6, 8, 10], [8, 10, 12, 14]]),
        (Uniform(4, 2, start="center"), 14, [[3, 5, 7, 9]]),
        (Uniform(4, 4, start="random"), 6, [[0, 4, 5, 5]]),
        (Equidistant(8, 32), 100, [[0, 12, 25, 37, 50, 62, 75, 87]]),
        (Equidistant(8, 32), 3, [[0, 1, 2, 0, 1, 2, 0, 1]]),
        (Equidistant(4, 1, num_views=2), 16, [[0, 4, 8, 12], [2, 6, 10, 14]]),
        (Segment(4, 1), 41, [[5, 15, 25, 35]]),
        (Segment(2, 1, num_views=3), 25, [[3, 15], [6, 18], [9, 21]]),
        (Dense(8, 32), 300, [[0, 36, 72, 109, 145, 182, 218, 255]]),
        (Dense(4, 2, start="center"), 14, [[3, 5, 7, 10]]),
        (Dense(2, 4, start="random", num_views=4), 20, [[0, 7], [3, 10], [6, 13], [9, 16]]),
        (Dense(8, 32), 90, [[0, 36, 72, 89, 89, 89, 89, 89]]),
        (Dense(8, 32, window="fit"), 90, [[0, 12, 25, 38, 50, 63, 76, 89]]),
        (Dense(8, 32, window="fit"), 3, [[0, 0, 0, 0, 1, 1, 1, 2]]),
    ],
)
def test_positions(sampler, length, expected):
    assert [positions(sampler, length, view=view) for view in range(len(expected))] == expected


def test_random_positions():
    clips = [positions(Uniform(4, 2, start="random"), 12, seed) for seed in range(50)]
    assert {tuple(clip) for clip in clips} == {tuple(range(start, start + 8, 2)) for start in range(4)}
    clips = np.array([positions(Segment(4, 1, training=True), 41, seed) for seed in range(300)])
    assert clips.min(axis=0).tolist() == [0, 10, 20, 30]
    assert clips.max(axis=0).tolist() == [10, 20, 30, 40]
    for seed in range(20):
        clip = positions(Random(8, 32), 9, seed)
        assert (len(set(clip)), clip) == (8, sorted(clip))
    drawn = positions(Random(8, 32, ordered=False), 100)
    assert drawn != sorted(drawn) == positions(Random(8, 32), 100)


def test_build_sampler_of_each_split():
    cfg = get_cfg()
    cfg.DATA.SAMPLER, cfg.DATA.TARGET_FPS, cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE = "uniform", 25.0, 8, 32
    cfg.TEST.NUM_ENSEMBLE_VIEWS = 5
    assert build_sampler(cfg, "train") == Uniform(8, 32, start="random", training=True, target_fps=25.0)
    assert build_sampler(cfg, "val") == Uniform(8, 32, target_fps=25.0)
    assert build_sampler(cfg, "test") == Uniform(8, 32, num_views=5, target_fps=25.0)
    cfg.DATA.SAMPLER_START, cfg.DATA.TEST_SAMPLER = "first", "equidistant"
    assert build_sampler(cfg, "train").start == "first"
    assert build_sampler(cfg, "val").name == "equidistant"
    cfg.DATA.SAMPLER = "unifrom"
    with pytest.raises(ConfigError, match=r"DATA\.SAMPLER"):
        build_sampler(cfg, "train")


@pytest.mark.parametrize(
    ("dataset", "name", "window"),
    [("kinetics", "dense", "full"), ("folder", "dense", "fit"), ("hmdb_simp", "uniform", ""), ("ssv2", "segment", "")],
)
def test_default_sampler_of_a_dataset(dataset, name, window):
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = dataset
    for split in ("train", "val", "test"):
        assert build_sampler(cfg, split).name == name
        assert not window or build_sampler(cfg, split).window == window


@pytest.mark.parametrize(
    ("saved", "changed"),
    [
        ({"DATA": {"SAMPLER": "", "SAMPLER_ORDERED": True}}, True),  # saved before there was dense
        ({"DATA": {"TARGET_FPS": 30}}, False),  # of the original
        ({"DATA": {"SAMPLER": "", "SAMPLER_WINDOW": "fit"}}, True),
    ],
)
def test_sampler_change(saved, changed):
    options = read_saved({**saved, "TRAIN": {"DATASET": "kinetics"}, "TEST": {"DATASET": "kinetics"}})
    assert bool(sampling.sampler_change(options, get_cfg())) == changed


def test_rules_of_the_original(golden_dir):
    golden = json.loads((golden_dir / "sampling.json").read_text())
    for case in golden["get_start_end_idx"]:
        size, window, training = case["video_size"], case["clip_size"], case["clip_idx"] == -1
        sampler = Dense(8, 1, start="random" if training else "first", num_views=1 if training else case["num_clips"])
        draws = PythonRandom(case["python_random_seed"]) if training else None
        start = sampler.window_start(size, window, draws, case["clip_idx"])
        assert [start, start + window - 1] == pytest.approx(case["out"], abs=1e-9)
    for case in golden["temporal_sampling"]:
        found = sampling.linspace_positions(case["start_idx"], case["end_idx"], case["num_samples"])
        assert np.clip(found, 0, case["num_video_frames"] - 1).tolist() == case["indices"], case
    for case in golden["ssv2_seq"]:
        training = case["mode"] == "train"
        draws = PythonRandom(case["python_random_seed"]) if training else None
        sampler = Segment(case["num_frames"], 1, training=training)
        assert sampler.positions(sampling.VideoInfo(case["video_length"]), draws) == case["seq"], case
