"""Clips equal the original's, from the options of a configuration file to pixels; training clips in distribution."""

import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fvcore.common.config import CfgNode
from PIL import Image
from scipy.stats import chisquare, kstest, uniform

from timesformer.config import load_config
from timesformer.datasets import clips
from timesformer.datasets.clips import ClipDataset, ClipMaker
from timesformer.inference.clip_batches import make_views

pytestmark = pytest.mark.slow
OPTIONS = ("num_frames", "sampling_rate", "views", "crops", "crop_size", "jitter", "target_fps")
HEIGHT, WIDTH = 48, 80  # of the golden videos
SIDE = 80  # of a clip that shows whole frames


def shown_number(frame: torch.Tensor) -> int:
    """Number that a golden frame (3, SIDE, SIDE) shows in binary: square b, 16 wide and 24 high, is white for a 1."""
    rows, columns = SIDE / HEIGHT, SIDE / WIDTH
    squares = [(int((b // 5 * 24 + 12) * rows), int((b % 5 * 16 + 8) * columns)) for b in range(10)]
    return sum((frame[:, y, x].float().mean().item() > 128) << b for b, (y, x) in enumerate(squares))


def write_list(folder: Path, paths: list[Path], split: str = "test") -> None:
    """A list of Kinetics; the label of a video is its number in the list."""
    (folder / f"{split}.csv").write_text("".join(f"{path} {number}\n" for number, path in enumerate(paths)))


def original_config(folder: Path, options: dict, *overrides: str) -> CfgNode:
    """Configuration of a file in the original's manner for the lists in a folder; options as in the golden files."""
    data = {"NUM_FRAMES": options["num_frames"], "SAMPLING_RATE": options["sampling_rate"], "INPUT_CHANNEL_NUM": [3]}
    data |= {"TARGET_FPS": options["target_fps"], "PATH_TO_DATA_DIR": str(folder)}
    data |= dict.fromkeys(("TRAIN_CROP_SIZE", "TEST_CROP_SIZE"), options.get("crop_size", 224))
    data["TRAIN_JITTER_SCALES"] = list(options.get("jitter", (256, 320)))
    test = {"NUM_ENSEMBLE_VIEWS": options["views"], "NUM_SPATIAL_CROPS": options.get("crops", 3)}
    original = {
        "TRAIN": {"DATASET": "kinetics", "BATCH_SIZE": 8},
        "DATA": data,
        "TEST": {"DATASET": "kinetics", **test},
        "MODEL": {"MODEL_NAME": "vit_base_patch16_224", "NUM_CLASSES": 400, "ARCH": "vit"},
        "TIMESFORMER": {"PATCH_SIZE": 1},
        "NUM_GPUS": 0,
    }
    (folder / "original.yaml").write_text(yaml.safe_dump(original))
    return load_config(folder / "original.yaml", overrides)


WHOLE_FRAMES = f"""
    DATA.SPATIAL_MODE resize TEST.NUM_SPATIAL_CROPS 1 DATA.TEST_CROP_SIZE {SIDE} DATA.TRAIN_CROP_SIZE {SIDE}
    DATA.RANDOM_FLIP False DATA.DECODE_TIMEOUT 0
""".split()


def shown_numbers(dataset: ClipDataset, index: int | tuple[int, int]) -> list[int]:
    return [shown_number(frame) for frame in dataset[index]["clip"].transpose(0, 1)]


@pytest.mark.numerical
def test_test_clips_equal_the_originals(golden_dir, tmp_path):
    golden = torch.load(golden_dir / "kinetics_test_clips.pt", weights_only=True)
    videos = sorted((golden_dir / "videos").iterdir())
    write_list(tmp_path, videos)
    names, by_options = [path.name for path in videos], defaultdict(list)
    for case in golden["cases"]:
        by_options[tuple(map(str, (case[key] for key in OPTIONS)))].append(case)
    compared = 0
    for cases in by_options.values():
        dataset = ClipDataset(original_config(tmp_path, cases[0]), "test")
        whole = ClipDataset(original_config(tmp_path, cases[0], *WHOLE_FRAMES), "test")
        for case in cases:
            video, view, crops = names.index(case["video"]), case["view"], case["crops"]
            assert shown_numbers(whole, video * whole.num_views + view // crops) == case["frames"], case
            item = dataset[video * dataset.num_views + view]
            assert (item["video"], item["view"], item["label"]) == (video, view, video)
            key = "{case}/{target_fps}/{video}/{view}".format(**case)
            if key in golden["pixels"]:
                compared += 1
                difference = (item["clip"].int() - golden["pixels"][key].int()).abs()
                assert difference.max() <= 8, key
                assert difference.float().mean() <= 1, key
    assert compared == len(golden["pixels"]) == 150


class PythonRandom(random.Random):
    """Draws with Python's `random`, as the original did, behind the interface of a RandomState."""

    get_state = random.Random.getstate


@pytest.mark.parametrize("split", ["train", "test"])
def test_clips_have_the_frames_of_the_originals_decoder(golden_dir, tmp_path, monkeypatch, split):
    videos = json.loads((golden_dir / "video_decode.json").read_text())["videos"]
    write_list(tmp_path, [golden_dir / video["file"] for video in videos], split)
    by_options, keys = defaultdict(list), ("num_frames", "sampling_rate", "num_clips", "target_fps")
    for number, video in enumerate(videos):
        for run in video["runs"]:
            if (run["clip_idx"] < 0) == (split == "train"):  # in training, a clip starts at random
                by_options[tuple(map(run.get, keys))].append((number, run))
    assert sum(map(len, by_options.values())) == {"train": 210, "test": 280}[split]
    for values, runs in by_options.items():
        options = dict(zip(("num_frames", "sampling_rate", "views", "target_fps"), values, strict=True))
        dataset = ClipDataset(original_config(tmp_path, options, *WHOLE_FRAMES), split)
        for number, run in runs:
            rng = PythonRandom(run.get("seed"))
            monkeypatch.setattr(clips, "clip_rng", lambda *key, rng=rng: rng)
            item = number * dataset.num_views + max(run["clip_idx"], 0)
            assert shown_numbers(dataset, item) == run["frames"], run


def test_training_clips_start_uniformly(golden_dir, tmp_path):
    write_list(tmp_path, [golden_dir / "videos/h264_30fps_gop250.mp4"], "train")
    options = {"num_frames": 2, "sampling_rate": 120, "views": 1, "target_fps": 30}
    dataset = ClipDataset(original_config(tmp_path, options, *WHOLE_FRAMES), "train")
    first, last = np.array([shown_numbers(dataset, (epoch, 0)) for epoch in range(250)]).T
    # The window of 240 frames begins anywhere from 0 to 60; the first frame decoded is the next whole one.
    assert kstest(first - 0.5, uniform(-0.5, 61).cdf).pvalue > 1e-3
    assert (last - first == 239).all()


@pytest.fixture
def ramp(golden_dir: Path, tmp_path: Path) -> Path:
    """A folder of one frame, 64 high and 96 wide, whose red grows with x by 2 and whose green grows with y by 3."""
    y, x = np.mgrid[:64, :96]
    folder = tmp_path / "ramp"
    folder.mkdir()
    Image.fromarray(np.stack([2 * x, 3 * y, 0 * x], axis=-1).astype(np.uint8)).save(folder / "0.png")
    return folder


def test_training_crops_have_the_originals_distributions(ramp, tmp_path):
    write_list(tmp_path, [ramp], "train")
    options = {"num_frames": 1, "sampling_rate": 1, "views": 1, "target_fps": 30, "jitter": (28, 36), "crop_size": 24}
    dataset = ClipDataset(original_config(tmp_path, options), "train")
    made = torch.stack([dataset[epoch, 0]["clip"][:2, 0] for epoch in range(1500)]).double().numpy()
    red, green = made[:, 0, 12, 1:-1], made[:, 1, 1:-1, 12]  # the outermost pixels may lie at the frame's border
    at = np.arange(1, 23)
    slope_x, start_x = np.polyfit(at, red.T, 1)
    slope_y, start_y = np.polyfit(at, green.T, 1)
    flipped = slope_x < 0
    assert chisquare([flipped.sum(), (~flipped).sum()]).pvalue > 1e-3

    short = np.rint(64 * 3 / slope_y)
    sizes, counts = np.unique(short, return_counts=True)
    assert sizes.tolist() == list(range(28, 37))
    shares = np.array([1, *[2] * 7, 1]) / 16  # round() of a number between 28 and 36
    assert chisquare(counts, shares * counts.sum()).pvalue > 1e-3

    # Pixel p of the scaled frame shows (p + 0.5) / scale - 0.5 of the frame.
    height, width = short, np.floor(short * 1.5)
    top = np.rint((start_y / 3 + 0.5) * height / 64 - 0.5)
    seen_left = np.where(flipped, start_x + 23 * slope_x, start_x)
    left = np.rint((seen_left / 2 + 0.5) * width / 96 - 0.5)
    dither = np.random.default_rng(0).uniform(size=(2, len(short)))  # whole numbers, 0 to places - 1, to real ones
    for place, side, noise in ((top, height, dither[0]), (left, width, dither[1])):
        assert kstest((place + noise) / (side - 24), "uniform").pvalue > 1e-3


def test_short_clips_are_stretched_first(tmp_path, make_frames):
    write_list(tmp_path, [make_frames(tmp_path / "folder", 12)])
    options = {"num_frames": 8, "sampling_rate": 7, "views": 1, "target_fps": 30}
    cfg = original_config(tmp_path, options, *WHOLE_FRAMES, "DATA.PRE_SAMPLING.ENABLED", "True")
    seen = ClipDataset(cfg, "test")[0]["clip"][0, :, 0, 0] / 4
    # 12 frames -> 23 by interpolation -> 45 by reversal -> 56 with darker ones; of these 0, 7, 15, ... 55.
    assert seen.tolist() == pytest.approx([0, 3.5, 7.5, 10.5, 6.5, 2.5, 0.6, 3], abs=0.13)


def test_folder_has_the_target_frame_rate(tmp_path, make_frames):
    write_list(tmp_path, [make_frames(tmp_path / "clip", 40)])
    options = {"num_frames": 4, "sampling_rate": 8, "views": 1, "target_fps": 12}
    clip = ClipDataset(original_config(tmp_path, options), "test")[0]["clip"]
    assert (clip[0, :, 0, 0] / 4).tolist() == [0, 10, 20, 31]


@pytest.mark.parametrize(("dataset", "rows"), [("kinetics", (10.8, 52.2)), ("ssv2", (0.5, 62.5))])
def test_one_crop_is_the_center(tmp_path, dataset, rows):
    """Of 48 x 72 pixels (the smallest jitter) in Kinetics, of 32 x 48 (the crop size) in Something-Something."""
    ramp = np.arange(0, 192, 3, np.uint8)[:, None, None].repeat(96, 1).repeat(3, 2)
    Image.fromarray(ramp).save(tmp_path / "0.png")
    options = {"num_frames": 1, "sampling_rate": 1, "views": 1, "target_fps": 30, "crops": 1}
    cfg = original_config(tmp_path, {**options, "jitter": (48, 64), "crop_size": 32})
    cfg.TEST.DATASET = dataset
    (view,) = make_views(ClipMaker(cfg, "test"), str(tmp_path), [0], 0)
    assert (view.clip[1, 0, [0, -1], 0] / 3).tolist() == pytest.approx(rows, abs=0.3)
