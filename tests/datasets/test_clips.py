"""Items of the clip dataset: shape, views, randomness, stretching, unreadable clips."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from timesformer.datasets import clips as clips_module
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.decoding.open import VideoError, VideoReader, open_video
from timesformer.datasets.records import Records


def numbers(item: dict) -> list[int]:
    """Numbers of the frames in a clip of `make_frames`, whose brightness is 4 x number."""
    clip = item["clip"]
    assert (clip == clip[:1, :, :1, :1]).all()
    return (clip[0, :, 0, 0] / 4).tolist()


def break_clip(dataset: ClipDataset, video: int) -> None:
    for file in Path(dataset.records[video].path).iterdir():
        file.write_bytes(b"no image")


def test_training_item(cfg):
    dataset = ClipDataset(cfg, "train")
    assert len(dataset) == 8
    item = dataset[5]
    assert set(item) == {"clip", "label", "video", "view", "readable", "errors"}
    assert item["clip"].dtype == torch.uint8
    assert item["clip"].shape == (3, 4, 16, 16)
    assert (item["label"], item["video"], item["view"], item["readable"], item["errors"]) == (1, 5, 0, True, {})
    assert np.diff(numbers(item)).tolist() == [2, 2, 2]


def test_order_of_test_items(cfg):
    dataset = ClipDataset(cfg, "test")
    assert len(dataset) == 4 * 2 * 3
    items = [dataset[i] for i in range(12)]
    assert [(item["video"], item["view"]) for item in items] == [(i // 6, i % 6) for i in range(12)]
    # The first test clip has 10 + 14 % 4 = 12 frames: two views of 8 frames start at 0 and 2.
    assert [numbers(item)[0] for item in items[:6]] == [0, 0, 0, 2, 2, 2]


@pytest.fixture
def noise(cfg, tmp_path):
    """Configuration of one class of two clips, 24 x 32 pixels of coloured noise."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        (tmp_path / "noise" / split / "a" / "0").mkdir(parents=True)
        pixels = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "noise" / split / "a/0/0.png")
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(tmp_path / "noise"), 1
    return cfg


@pytest.mark.parametrize("split", ["train", "test"])
def test_reversed_channels(noise, split):
    clip = ClipDataset(noise, split)[0]["clip"]
    noise.DATA.REVERSE_INPUT_CHANNEL = True
    assert torch.equal(ClipDataset(noise, split)[0]["clip"], clip.flip(0))
    assert not torch.equal(clip, clip.flip(0))


def test_inverse_uniform_sampling(noise):
    before = {split: ClipDataset(noise, split)[0]["clip"] for split in ("train", "test")}
    noise.DATA.INV_UNIFORM_SAMPLE = True
    after = {split: ClipDataset(noise, split)[0]["clip"] for split in ("train", "test")}
    assert not torch.equal(before["train"], after["train"])
    assert torch.equal(before["test"], after["test"])


def test_randomness_depends_on_seed_epoch_video_and_view(cfg):
    cfg.DATA.SAMPLER = "random"
    dataset, again = ClipDataset(cfg, "train"), ClipDataset(cfg, "train")
    torch.manual_seed(1)
    np.random.seed(1)
    first = [dataset[3, i]["clip"] for i in range(8)]
    np.random.seed(2)
    assert all(torch.equal(again[3, i]["clip"], first[i]) for i in reversed(range(8)))
    assert not all(torch.equal(dataset[4, i]["clip"], first[i]) for i in range(8))
    cfg.RNG_SEED += 1
    assert not all(torch.equal(ClipDataset(cfg, "train")[3, i]["clip"], first[i]) for i in range(8))
    test = ClipDataset(cfg, "test")
    assert numbers(test[0]) != numbers(test[3])


@pytest.mark.parametrize("mode", ["crop", "resize"])
def test_random_flip(noise, mode):
    noise.DATA.SPATIAL_MODE, noise.DATA.TRAIN_JITTER_SCALES, noise.DATA.TRAIN_CROP_SIZE = mode, [24, 24], 24

    def variants(split: str) -> tuple[int, int]:
        """How many different clips there are, without and with counting mirrored ones."""
        dataset = ClipDataset(noise, split)
        clips = [(clip, clip.flip(-1)) for clip in (dataset[epoch, 0]["clip"] for epoch in range(40))]
        content = [tuple(one.numpy().tobytes() for one in pair) for pair in clips]
        return len({min(pair) for pair in content}), len({pair[0] for pair in content})

    unflipped, seen = variants("train")
    assert seen > unflipped
    noise.DATA.RANDOM_FLIP = False
    unflipped, seen = variants("train")
    assert seen == unflipped
    assert variants("test") == (1, 1)


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


def test_unreadable_training_clip_is_replaced(cfg):
    dataset = ClipDataset(cfg, "train")
    break_clip(dataset, 2)
    item = dataset[0, 2]
    assert item["video"] in (0, 1, 3)  # videos 0 to 3 are of class 0
    assert (item["label"], item["readable"]) == (0, True)
    assert list(item["errors"]) == [2]
    assert torch.equal(dataset[0, 2]["clip"], item["clip"])
    assert torch.equal(dataset[0, item["video"]]["clip"], item["clip"])
    assert {dataset[epoch, 2]["video"] for epoch in range(20)} == {0, 1, 3}
    assert len({dataset[0, 2, repeat]["video"] for repeat in range(5)}) > 1


def test_class_without_readable_clips(cfg):
    dataset = ClipDataset(cfg, "train")
    for video in range(4):
        break_clip(dataset, video)
    item = dataset[2]
    assert (item["video"], item["label"], item["readable"]) == (2, 0, False)
    assert sorted(item["errors"]) == [0, 1, 2, 3]
    assert dataset[4]["readable"]


def test_replacement_tries_are_limited(cfg, monkeypatch):
    dataset = ClipDataset(cfg, "train")
    many = Records((f"clip{number}" for number in range(1000)), [0] * 1000, folder=cfg.DATA.PATH_TO_DATA_DIR)
    monkeypatch.setattr(dataset, "records", many)
    assert len(dataset[0]["errors"]) == 1 + clips_module.REPLACEMENT_TRIES


def test_unreadable_clips_of_the_manifest_are_not_opened(cfg, monkeypatch):
    dataset, opened = ClipDataset(cfg, "train"), set()
    monkeypatch.setattr(clips_module, "open_video", lambda path, **_: opened.add(path) or open_video(path))
    dataset.records.problems.update({1: "it is empty", 2: "it is empty"})
    items = [dataset[epoch, 2] for epoch in range(20)]
    assert {item["video"] for item in items} == {0, 3}
    path = dataset.records[2].path
    assert all(item["errors"] == {2: f"{path}: it is empty"} for item in items)
    assert opened == {dataset.records[video].path for video in (0, 3)}


def test_on_unreadable_error(cfg):
    cfg.DATA.ON_UNREADABLE = "error"
    dataset = ClipDataset(cfg, "train")
    break_clip(dataset, 2)
    item = dataset[2]
    assert (item["video"], item["readable"], list(item["errors"])) == (2, False, [2])


def test_any_error_of_a_decoder_is_reported(cfg, monkeypatch):
    class Failing(PromisesTooMuch):
        def read(self, indices):
            raise MemoryError("14 terabytes")

    monkeypatch.setattr(clips_module, "open_video", lambda path, **_: Failing(path))
    dataset = ClipDataset(cfg, "val")
    reason = dataset[1]["errors"][1]
    assert all(part in reason for part in (dataset.records[1].path, "MemoryError: 14 terabytes"))


@pytest.mark.parametrize("step", ["open_video", "spatial_sampling"])
def test_decode_timeout(cfg, monkeypatch, step):
    never, begun = threading.Event(), []

    def hang(*_, **__):
        begun.append(step)
        never.wait()

    cfg.DATA.DECODE_TIMEOUT = 1.0
    dataset = ClipDataset(cfg, "val")
    with monkeypatch.context() as patched:
        patched.setattr(clips_module, step, hang)
        item, again = dataset[1], dataset[1]
    assert item["errors"] == again["errors"]
    assert "DATA.DECODE_TIMEOUT" in item["errors"][1]
    assert not item["readable"]
    assert begun == [step]
    never.set()


@pytest.mark.parametrize("split", ["val", "test"])
def test_unreadable_evaluation_clip(cfg, split):
    dataset = ClipDataset(cfg, split)
    break_clip(dataset, 3)
    item = dataset[3 * dataset.num_views]
    assert not item["clip"].any()
    assert item["clip"].shape == (3, 4, 16, 16)
    assert (item["video"], item["label"], item["readable"]) == (3, 1, False)
    assert list(item["errors"]) == [3]


class PromisesTooMuch(VideoReader):
    """Promises 40 frames and has 12."""

    num_frames, fps = 40, 25.0

    def read(self, indices):
        if max(indices) >= 12:
            self.num_frames = 12
            raise VideoError(f"{self.path}: frame {max(indices)} is missing")
        return super().read(indices)

    def _frames(self, wanted):
        return ((number, np.full((20, 30, 3), 4 * number, np.uint8)) for number in wanted)


def test_fewer_frames_than_promised(cfg, monkeypatch):
    monkeypatch.setattr(clips_module, "open_video", lambda path, **_: PromisesTooMuch(path))
    cfg.DATA.SAMPLER = "equidistant"
    item = ClipDataset(cfg, "val")[0]
    assert item["errors"] == {}
    assert numbers(item) == [0, 3, 6, 9]
