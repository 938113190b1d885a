"""Positions of samplers, spelt out for known lengths, and equal to the original's where the rule is the original's."""

import json
import random
from functools import partial

import numpy as np
import pytest

from timesformer.config import get_cfg
from timesformer.datasets.decoding.stream_timing import StreamTiming
from timesformer.datasets.transforms.sampling import (
    Sampler,
    linspace_positions,
    random_start,
    sampler_change,
    segment_positions,
    view_start,
)


def rng(seed: int = 0) -> np.random.RandomState:
    return np.random.RandomState(seed)


class PythonRandom:
    """Draws with Python's `random`, as the original did, behind the interface of a RandomState."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def randint(self, low: int, high: int) -> int:
        return self._random.randint(low, high - 1)


def test_uniform_takes_every_nth_frame_from_the_first():
    assert Sampler("uniform", 8, 32).positions(256, rng()) == [0, 32, 64, 96, 128, 160, 192, 224]
    assert Sampler("uniform", 4, 2).positions(10, rng()) == [0, 2, 4, 6]


def test_uniform_from_the_centre_leaves_as_much_before_as_after():
    assert Sampler("uniform", 4, 2, start="center").positions(14, rng()) == [3, 5, 7, 9]
    assert Sampler("uniform", 4, 2, start="center").positions(8, rng()) == [0, 2, 4, 6]


def test_uniform_at_random_starts_wherever_the_clip_fits():
    sampler = Sampler("uniform", 4, 2, start="random")
    clips = [sampler.positions(12, rng(seed)) for seed in range(50)]
    assert {clip[0] for clip in clips} == {0, 1, 2, 3}
    assert all(np.diff(clip).tolist() == [2, 2, 2] for clip in clips)


def test_uniform_repeats_the_last_frame_of_a_short_clip():
    assert Sampler("uniform", 4, 4, start="random").positions(6, rng()) == [0, 4, 5, 5]
    assert Sampler("uniform", 4, 4).positions(1, rng()) == [0, 0, 0, 0]


def test_uniform_views_start_evenly_spread():
    sampler = Sampler("uniform", 4, 2, start="center", num_views=3)
    assert [sampler.positions(20, rng(), view)[0] for view in range(3)] == [0, 4, 8]


def test_equidistant_covers_the_whole_clip():
    assert Sampler("equidistant", 8, 32).positions(100, rng()) == [0, 12, 25, 37, 50, 62, 75, 87]
    assert Sampler("equidistant", 8, 32).positions(8, rng()) == list(range(8))


def test_equidistant_starts_again_when_there_are_too_few():
    assert Sampler("equidistant", 8, 32).positions(3, rng()) == [0, 1, 2, 0, 1, 2, 0, 1]


def test_equidistant_views_lie_between_each_other():
    sampler = Sampler("equidistant", 4, 1, num_views=2)
    assert [sampler.positions(16, rng(), view) for view in (0, 1)] == [[0, 4, 8, 12], [2, 6, 10, 14]]


def test_random_draws_without_repetition_when_there_are_enough():
    for seed in range(20):
        clip = Sampler("random", 8, 32).positions(9, rng(seed))
        assert len(set(clip)) == 8
        assert clip == sorted(clip)
        assert set(clip) <= set(range(9))


def test_random_repeats_when_there_are_too_few():
    clip = Sampler("random", 8, 32).positions(3, rng())
    assert len(clip) == 8
    assert set(clip) <= {0, 1, 2}


def test_random_unordered_keeps_the_order_drawn():
    ordered, drawn = (Sampler("random", 8, 32, ordered=flag).positions(100, rng()) for flag in (True, False))
    assert drawn != ordered
    assert sorted(drawn) == ordered


def test_segment_takes_the_middle_of_each_segment_in_testing_and_any_frame_in_training():
    assert Sampler("segment", 4, 1).positions(41, rng()) == [5, 15, 25, 35]
    clips = np.array([Sampler("segment", 4, 1, training=True).positions(41, rng(seed)) for seed in range(300)])
    assert clips.min(axis=0).tolist() == [0, 10, 20, 30]
    assert clips.max(axis=0).tolist() == [10, 20, 30, 40]


def test_segment_views_divide_the_segments():
    sampler = Sampler("segment", 2, 1, num_views=3)
    assert [sampler.positions(25, rng(), view) for view in range(3)] == [[3, 15], [6, 18], [9, 21]]


@pytest.mark.parametrize(
    ("name", "length", "expected"),
    [
        ("uniform", 100, [0, 32, 64, 96]),
        ("uniform", 20, [0]),
        ("uniform", 1000, list(range(0, 256, 32))),
        ("dense", 100, [0, 36, 72]),
        ("dense", 1000, [0, 36, 72, 109, 145, 182, 218, 255]),
        ("equidistant", 5, [0, 1, 2, 3, 4]),
        ("segment", 5, [0, 1, 2, 3, 4]),
        ("random", 5, [0, 1, 2, 3, 4]),
        ("equidistant", 16, list(range(0, 16, 2))),
    ],
)
def test_available_positions_are_those_that_exist_without_repeating(name, length, expected):
    assert Sampler(name, 8, 32).available(length, rng()) == expected


def test_available_positions_of_unordered_random_are_shuffled():
    drawn = Sampler("random", 8, 32, ordered=False).available(7, rng())
    assert sorted(drawn) == list(range(7))
    assert drawn != sorted(drawn)


def test_configuration_chooses_the_sampler_of_each_split():
    cfg = get_cfg()
    cfg.DATA.SAMPLER, cfg.DATA.TARGET_FPS, cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE = "uniform", 25.0, 8, 32
    cfg.TEST.NUM_ENSEMBLE_VIEWS = 5
    uniform = partial(Sampler, "uniform", 8, 32, target_fps=25.0)
    assert Sampler.from_cfg(cfg, "train") == uniform(start="random", training=True)
    assert Sampler.from_cfg(cfg, "val") == uniform()
    assert Sampler.from_cfg(cfg, "test") == uniform(num_views=5)
    cfg.DATA.SAMPLER_START, cfg.DATA.TEST_SAMPLER = "first", "equidistant"
    assert Sampler.from_cfg(cfg, "train").start == "first"
    assert Sampler.from_cfg(cfg, "val").name == "equidistant"


@pytest.mark.parametrize(
    ("dataset", "name", "window"),
    [
        ("kinetics", "dense", "full"),
        ("hmdb51", "dense", "fit"),
        ("ucf101", "dense", "fit"),
        ("muwiges", "dense", "fit"),
        ("folder", "dense", "fit"),
        ("hmdb_simp", "uniform", "fit"),
        ("ssv2", "segment", "fit"),
    ],
)
def test_each_dataset_has_a_sampler_of_its_own(dataset, name, window):
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = dataset
    for split in ("train", "val", "test"):
        sampler = Sampler.from_cfg(cfg, split)
        assert (sampler.name, sampler.window) == (name, window)
    cfg.DATA.SAMPLER_WINDOW = "full"
    assert Sampler.from_cfg(cfg, "test").window == "full"


def test_unknown_names_are_refused():
    for arguments in ({"name": "unifrom"}, {"name": "uniform", "start": "middle"}, {"name": "dense", "window": "half"}):
        with pytest.raises(ValueError, match="expected one of"):
            Sampler(num_frames=8, rate=1, **arguments)


def test_dense_spreads_the_frames_over_the_whole_window():
    assert Sampler("dense", 8, 32).positions(300, rng()) == [0, 36, 72, 109, 145, 182, 218, 255]
    assert Sampler("dense", 4, 2, start="center").positions(14, rng()) == [3, 5, 7, 10]


def test_dense_repeats_the_last_frame_of_a_short_video_or_shortens_the_window():
    assert Sampler("dense", 8, 32).positions(90, rng()) == [0, 36, 72, 89, 89, 89, 89, 89]
    assert Sampler("dense", 8, 32, window="fit").positions(90, rng()) == [0, 12, 25, 38, 50, 63, 76, 89]
    assert Sampler("dense", 8, 32, window="fit").positions(3, rng()) == [0, 0, 0, 0, 1, 1, 1, 2]


def test_dense_windows_last_as_long_whatever_the_frame_rate():
    assert Sampler("dense", 3, 10).positions(100, rng(), fps=60.0) == [0, 29, 59]
    assert Sampler("dense", 3, 10).positions(100, rng(), fps=15.0) == [0, 7, 14]
    assert Sampler("dense", 3, 10, target_fps=15.0).positions(100, rng(), fps=15.0) == [0, 14, 29]


def test_dense_views_start_evenly_spread():
    sampler = Sampler("dense", 4, 2, start="random", num_views=4)
    assert [sampler.positions(20, rng(), view)[0] for view in range(4)] == [0, 3, 6, 9]


def test_dense_random_starts_are_uniform_over_the_real_interval():
    """Starts are real numbers: the last position moves to the next frame as often as the fraction says."""
    sampler = Sampler("dense", 2, 5, start="random")
    random = rng(0)
    starts = np.array([sampler.positions(20, random) for _ in range(5000)])
    # Kolmogorov-Smirnov distance of the start from the uniform distribution on 0..10, a frame at a time.
    share = np.array([(starts[:, 0] < frame).mean() for frame in range(1, 11)])
    assert np.abs(share - np.arange(1, 11) / 10).max() < 1.95 / np.sqrt(5000)  # exceeded once in 1,000 trials
    assert (starts[:, 1] - starts[:, 0] == 9).all()


def test_timing_tells_which_frames_the_original_decodes():
    even = StreamTiming(num_frames=100, fps=25.0, duration=51200, times=range(0, 51200, 512))
    assert even.shown_between(0, 9) == (0, 10)
    assert even.shown_between(0.5, 9.5) == (1, 10)
    assert even.shown_between(95, 104) == (95, 99)
    assert StreamTiming(100, 25.0, 51200).shown_between(0.5, 9.5) == (1, 10)
    late = StreamTiming(num_frames=4, fps=1.0, duration=400, times=[0, 10, 20, 30])  # no frame is shown after 30
    assert late.shown_between(2, 3) == (3, 3)


@pytest.mark.parametrize(
    ("saved", "changed"),
    [
        ({"DATA": {"SAMPLER": ""}, "TEST": {"DATASET": "kinetics"}}, True),  # of this project, before there was dense
        ({"DATA": {"SAMPLER": ""}, "TEST": {"DATASET": "ssv2"}}, True),
        ({"DATA": {"TARGET_FPS": 30}, "TEST": {"DATASET": "kinetics"}}, False),  # of the original
        ({"DATA": {"SAMPLER": "", "SAMPLER_WINDOW": ""}, "TEST": {"DATASET": "kinetics"}}, False),
        ({"DATA": {"SAMPLER": "", "SAMPLER_WINDOW": "fit"}, "TEST": {"DATASET": "kinetics"}}, True),
        ({"DATA": {"SAMPLER": "uniform", "TEST_SAMPLER": "dense"}, "TEST": {"DATASET": "kinetics"}}, False),
    ],
)
def test_a_checkpoint_whose_tests_sampled_otherwise_is_noticed(saved, changed):
    assert bool(sampler_change(saved, get_cfg())) == changed


def golden(golden_dir, name):
    return json.loads((golden_dir / "sampling.json").read_text())[name]


def test_starts_of_views_are_the_originals(golden_dir):
    for case in golden(golden_dir, "get_start_end_idx"):
        size, window = case["video_size"], case["clip_size"]
        if case["clip_idx"] == -1:
            start = random_start(size, window, PythonRandom(case["python_random_seed"]))
        else:
            start = view_start(size, window, case["clip_idx"], case["num_clips"])
        assert [start, start + window - 1] == pytest.approx(case["out"], abs=1e-9)


def test_evenly_spread_positions_are_the_originals(golden_dir):
    for case in golden(golden_dir, "temporal_sampling"):
        found = linspace_positions(case["start_idx"], case["end_idx"], case["num_samples"])
        last = case["num_video_frames"] - 1
        assert [min(max(position, 0), last) for position in found] == case["indices"], case


def test_segments_are_the_originals(golden_dir):
    for case in golden(golden_dir, "ssv2_seq"):
        draws = PythonRandom(case["python_random_seed"]) if case["mode"] == "train" else None
        assert segment_positions(case["video_length"], case["num_frames"], draws) == case["seq"], case
