"""Items of the clip dataset: shape, views, randomness, stretching, unreadable clips."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.patience import PATIENCE
from timesformer.datasets import clips as clips_module
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.decoding.open import open_video


def numbers(item: dict) -> list[int]:
    """Numbers of the frames in a clip of `make_frames`, whose brightness is 4 x number."""
    clip = item["clip"]
    assert (clip == clip[:1, :, :1, :1]).all()
    return (clip[0, :, 0, 0] / 4).tolist()


def break_clip(dataset: ClipDataset, video: int) -> None:
    for file in Path(dataset.records[video].path).iterdir():
        file.write_bytes(b"no image")


def test_order_of_test_items(cfg):
    dataset = ClipDataset(cfg, "test")
    assert len(dataset) == 4 * 2 * 3
    items = [dataset[i] for i in range(12)]
    assert [(item["video"], item["view"]) for item in items] == [(i // 6, i % 6) for i in range(12)]
    # The first test clip has 10 + 14 % 4 = 12 frames: two views of 8 frames start at 0 and 2.
    assert [numbers(item)[0] for item in items[:6]] == [0, 0, 0, 2, 2, 2]


@pytest.fixture
def noise(cfg, tmp_path):
    """Configuration of one class of two clips, 24 x 32 pixels of colored noise."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        pixels = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        (tmp_path / "noise" / split / "a/0").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "noise" / split / "a/0/0.png")
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(tmp_path / "noise"), 1
    return cfg


@pytest.mark.parametrize("split", ["train", "test"])
def test_reversed_channels_and_inverse_uniform_sampling(noise, split):
    clip = ClipDataset(noise, split)[0]["clip"]
    noise.DATA.REVERSE_INPUT_CHANNEL = True
    assert torch.equal(ClipDataset(noise, split)[0]["clip"], clip.flip(0))
    noise.DATA.REVERSE_INPUT_CHANNEL, noise.DATA.INV_UNIFORM_SAMPLE = False, True
    assert torch.equal(ClipDataset(noise, split)[0]["clip"], clip) == (split == "test")


def test_resize_mode(cfg):
    cfg.DATA.SPATIAL_MODE = "resize"
    assert ClipDataset(cfg, "train")[0]["clip"].shape == (3, 4, 16, 16)
    cfg.DATA.TEST_CROP_SIZE = 40  # larger than the frames
    assert ClipDataset(cfg, "test")[0]["clip"].shape == (3, 4, 40, 40)


def test_stretching_after_sampling(cfg):
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE = 8, 5
    cfg.DATA.PRE_SAMPLING.ENABLED, cfg.DATA.PRE_SAMPLING.ORDER = True, "after_sampling"
    # Frames 0, 5, 10 of 12 are sampled; 3 -> 5 by interpolation -> 9 by reversal, of which 8 are kept.
    assert numbers(ClipDataset(cfg, "val")[0]) == [0, 2.5, 5, 7.5, 10, 7.5, 5, 2.5]
    cfg.DATA.PRE_SAMPLING.METHODS = []  # nothing can stretch: the sampled frames are repeated
    assert numbers(ClipDataset(cfg, "val")[0]) == [0, 5, 10, 0, 5, 10, 0, 5]


@pytest.mark.parametrize("mode", ["crop", "resize"])
@pytest.mark.parametrize("flip", [True, False])
def test_random_flip(noise, mode, flip):
    noise.DATA.SPATIAL_MODE, noise.DATA.TRAIN_JITTER_SCALES, noise.DATA.TRAIN_CROP_SIZE = mode, [24, 24], 24
    noise.DATA.RANDOM_FLIP = flip
    dataset = ClipDataset(noise, "train")
    clips = [dataset[epoch, 0]["clip"] for epoch in range(40)]
    contents = {clip.numpy().tobytes() for clip in clips}
    assert any(clip.flip(-1).numpy().tobytes() in contents for clip in clips) == flip


def test_randomness_depends_on_seed_epoch_video_repeat_and_view(cfg):
    cfg.DATA.SAMPLER = "random"
    dataset = ClipDataset(cfg, "train")
    first = [dataset[3, i]["clip"] for i in range(8)]
    torch.manual_seed(1)
    np.random.seed(2)
    again = ClipDataset(cfg, "train")
    assert all(torch.equal(again[3, i]["clip"], first[i]) for i in reversed(range(8)))
    assert not all(torch.equal(dataset[4, i]["clip"], first[i]) for i in range(8))
    assert not all(torch.equal(dataset[3, i, 1]["clip"], first[i]) for i in range(8))
    cfg.DATA.DRAW_ONCE = True
    assert all(torch.equal(dataset[3, i]["clip"], dataset[4, i]["clip"]) for i in range(8))
    cfg.DATA.DRAW_ONCE = False
    cfg.RNG_SEED += 1
    assert not all(torch.equal(ClipDataset(cfg, "train")[3, i]["clip"], first[i]) for i in range(8))
    test = ClipDataset(cfg, "test")
    assert numbers(test[0]) != numbers(test[3])


def test_unreadable_training_clip_is_replaced(cfg):
    dataset = ClipDataset(cfg, "train")
    break_clip(dataset, 2)
    item = dataset[0, 2]
    assert (item["label"], item["readable"], list(item["errors"])) == (0, True, [2])
    assert torch.equal(dataset[0, 2]["clip"], item["clip"])
    assert torch.equal(dataset[0, item["video"]]["clip"], item["clip"])
    assert {dataset[epoch, 2]["video"] for epoch in range(20)} == {0, 1, 3}  # the others of class 0
    assert len({dataset[0, 2, repeat]["video"] for repeat in range(5)}) > 1
    for video in range(4):
        break_clip(dataset, video)
    for action, errors in (("continue", [0, 1, 2, 3]), ("error", [2])):
        cfg.DATA.ON_UNREADABLE = action
        item = ClipDataset(cfg, "train")[2]
        assert (item["video"], item["readable"], sorted(item["errors"])) == (2, False, errors)


@pytest.mark.parametrize("split", ["val", "test"])
def test_unreadable_evaluation_clip(cfg, split):
    dataset = ClipDataset(cfg, split)
    break_clip(dataset, 3)
    item = dataset[3 * dataset.num_views]
    assert not item["clip"].any()
    assert (item["video"], item["label"], item["readable"], list(item["errors"])) == (3, 1, False, [3])


def test_unreadable_clips_of_the_manifest_are_not_opened(cfg, monkeypatch):
    dataset, opened = ClipDataset(cfg, "train"), set()
    monkeypatch.setattr(clips_module, "open_video", lambda path, **_: opened.add(path) or open_video(path))
    dataset.records.problems.update({1: "it is empty", 2: "it is empty"})
    assert {dataset[epoch, 2]["video"] for epoch in range(20)} == {0, 3}
    assert opened == {dataset.records[video].path for video in (0, 3)}


def test_fewer_frames_than_promised(cfg, monkeypatch, tmp_path, make_video):
    video = make_video(tmp_path / "x.avi", [np.full((20, 30, 3), 8 * number, np.uint8) for number in range(12)])
    monkeypatch.setattr(clips_module, "open_video", lambda path, **_: open_video(video, num_frames=40))
    cfg.DATA.SAMPLER = "equidistant"
    item = ClipDataset(cfg, "val")[0]
    assert item["errors"] == {}
    assert (item["clip"][0, :, 0, 0] / 8).tolist() == pytest.approx([0, 3, 6, 9], abs=0.3)


def test_any_error_of_a_decoder_is_reported(cfg, monkeypatch):
    monkeypatch.setattr(clips_module, "open_video", lambda path, **_: 1 / 0)
    dataset = ClipDataset(cfg, "val")
    assert all(part in dataset[1]["errors"][1] for part in (dataset.records[1].path, "ZeroDivisionError"))


@pytest.mark.parametrize("step", ["open_video", "spatial_sampling"])
def test_decode_timeout(cfg, monkeypatch, step):
    never, begun = threading.Event(), []

    def hang(*_: object, **__: object) -> None:
        begun.append(step)
        dataset._time_limit.seconds = 0.1  # until here, a slow machine may take its time
        never.wait()

    monkeypatch.setattr(clips_module, step, hang)
    cfg.DATA.DECODE_TIMEOUT = PATIENCE
    dataset = ClipDataset(cfg, "val")
    item, again = dataset[1], dataset[1]
    assert item["errors"] == again["errors"]
    assert "DATA.DECODE_TIMEOUT" in item["errors"][1]
    assert begun == [step]
    never.set()
