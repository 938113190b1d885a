"""Clips equal the original's, from the options of a configuration file to pixels; training clips in distribution."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from scipy.stats import chisquare, kstest, uniform

from timesformer.config import load_config
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


@pytest.fixture
def kinetics_list(golden_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """kinetics_list(names, labels, split): a folder with the list of a split, of these golden videos."""

    def write(names: list[str], labels: list[int], split: str = "test") -> Path:
        folder = tmp_path / "lists"
        folder.mkdir(exist_ok=True)
        lines = [f"{golden_dir / 'videos' / name} {label}" for name, label in zip(names, labels, strict=True)]
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
        return folder

    return write


def configuration(tmp_path: Path, lists: Path, classes: int, options: dict, *overrides: str) -> CfgNode:
    """What a configuration file in the original's manner gives; options as in kinetics_test_clips.pt."""
    file = tmp_path / "original.yaml"
    file.write_text(
        f"""
        TRAIN: {{DATASET: kinetics, BATCH_SIZE: 8}}
        DATA:
          PATH_TO_DATA_DIR: {lists}
          NUM_FRAMES: {options["num_frames"]}
          SAMPLING_RATE: {options["sampling_rate"]}
          TARGET_FPS: {options["target_fps"]}
          TRAIN_JITTER_SCALES: {list(options.get("jitter", (256, 320)))}
          TRAIN_CROP_SIZE: {options.get("crop_size", 224)}
          TEST_CROP_SIZE: {options.get("crop_size", 224)}
          INPUT_CHANNEL_NUM: [3]
        TEST:
          DATASET: kinetics
          NUM_ENSEMBLE_VIEWS: {options["views"]}
          NUM_SPATIAL_CROPS: {options.get("crops", 3)}
        MODEL: {{MODEL_NAME: vit_base_patch16_224, NUM_CLASSES: {classes}, ARCH: vit}}
        TIMESFORMER: {{PATCH_SIZE: 1}}
        NUM_GPUS: 0
        """
    )
    return load_config(file, overrides)


WHOLE_FRAMES = ("DATA.SPATIAL_MODE", "resize", "TEST.NUM_SPATIAL_CROPS", "1", "DATA.TEST_CROP_SIZE", str(SIDE))


@pytest.mark.numerical
def test_test_clips_equal_the_originals(golden_dir, kinetics_list, tmp_path):
    golden = torch.load(golden_dir / "kinetics_test_clips.pt", weights_only=True)
    names = sorted(path.name for path in (golden_dir / "videos").iterdir())
    lists = kinetics_list(names, [number % 5 for number in range(len(names))])
    by_options = defaultdict(list)
    for case in golden["cases"]:
        by_options[tuple(map(str, (case[key] for key in OPTIONS)))].append(case)
    compared = 0
    for cases in by_options.values():
        dataset = ClipDataset(configuration(tmp_path, lists, 5, cases[0]), "test")
        whole = ClipDataset(configuration(tmp_path, lists, 5, cases[0], *WHOLE_FRAMES), "test")
        for case in cases:
            video, view, crops = names.index(case["video"]), case["view"], case["crops"]
            frames = whole[video * whole.num_views + view // crops]["clip"].transpose(0, 1)
            assert [shown_number(frame) for frame in frames] == case["frames"], case
            item = dataset[video * dataset.num_views + view]
            assert (item["video"], item["view"], item["label"]) == (video, view, case["label"])
            key = "{case}/{target_fps}/{video}/{view}".format(**case)
            if key in golden["pixels"]:
                compared += 1
                difference = (item["clip"].int() - golden["pixels"][key].int()).abs()
                assert difference.max() <= 8, key
                assert difference.float().mean() <= 1, key
    assert compared == len(golden["pixels"]) == 150


def test_views_have_the_frames_of_the_originals_decoder(golden_dir, kinetics_list, tmp_path):
    videos = json.loads((golden_dir / "video_decode.json").read_text())["videos"]
    names = [Path(video["file"]).name for video in videos]
    lists = kinetics_list(names, list(range(len(names))))
    by_options = defaultdict(list)
    for number, video in enumerate(videos):
        for run in video["runs"]:
            if run["clip_idx"] >= 0:  # the others start at random, drawn by Python's generator
                options = (run["num_frames"], run["sampling_rate"], run["num_clips"], run["target_fps"])
                by_options[options].append((number, run))
    for (num_frames, rate, views, fps), runs in by_options.items():
        options = {"num_frames": num_frames, "sampling_rate": rate, "views": views, "target_fps": fps}
        dataset = ClipDataset(configuration(tmp_path, lists, len(names), options, *WHOLE_FRAMES), "test")
        for number, run in runs:
            frames = dataset[number * views + run["clip_idx"]]["clip"].transpose(0, 1)
            assert [shown_number(frame) for frame in frames] == run["frames"], (names[number], run)


def test_training_clips_start_uniformly(golden_dir, kinetics_list, tmp_path):
    lists = kinetics_list(["h264_30fps_gop250.mp4"], [0], "train")
    options = {"num_frames": 2, "sampling_rate": 120, "views": 1, "target_fps": 30}
    flags = ("DATA.TRAIN_CROP_SIZE", str(SIDE), "DATA.RANDOM_FLIP", "False", "DATA.DECODE_TIMEOUT", "0")
    dataset = ClipDataset(configuration(tmp_path, lists, 1, options, *WHOLE_FRAMES, *flags), "train")
    clips = [dataset[epoch, 0]["clip"].transpose(0, 1) for epoch in range(250)]
    first, last = np.array([[shown_number(frame) for frame in clip] for clip in clips]).T
    # The window of 240 frames begins anywhere from 0 to 60; the first frame decoded is the next whole one.
    assert kstest(first - 0.5, uniform(-0.5, 61).cdf).pvalue > 1e-3
    assert (first.min(), first.max()) == (pytest.approx(0, abs=2), pytest.approx(60, abs=2))
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
    (tmp_path / "train.csv").write_text(f"{ramp} 0\n")
    options = {"num_frames": 1, "sampling_rate": 1, "views": 1, "target_fps": 30, "jitter": (28, 36), "crop_size": 24}
    dataset = ClipDataset(configuration(tmp_path, tmp_path, 1, options), "train")
    clips = torch.stack([dataset[epoch, 0]["clip"][:2, 0] for epoch in range(1500)]).double().numpy()
    red, green = clips[:, 0, 12, 1:-1], clips[:, 1, 1:-1, 12]  # the outermost pixels may lie at the frame's border
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


def test_short_clips_are_stretched_first(tmp_path, make_frames, make_video):
    frames = [np.full((24, 32, 3), 8 * number, np.uint8) for number in range(30)]
    paths = [make_frames(tmp_path / "folder", 12), make_video(tmp_path / "video.mp4", frames, codec="libx264")]
    (tmp_path / "test.csv").write_text("".join(f"{path} 0\n" for path in paths))
    stretch = ("DATA.PRE_SAMPLING.ENABLED", "True")
    for window in ("full", "fit"):
        options = {"num_frames": 8, "sampling_rate": 7, "views": 1, "target_fps": 30}
        cfg = configuration(tmp_path, tmp_path, 1, options, *WHOLE_FRAMES, *stretch, "DATA.SAMPLER_WINDOW", window)
        # 12 frames -> 23 by interpolation -> 45 by reversal -> 56 with darker ones; of these 0, 7, 15, ... 55.
        seen = ClipDataset(cfg, "test")[0]["clip"][0, :, 0, 0] / 4
        assert seen.tolist() == pytest.approx([0, 3.5, 7.5, 10.5, 6.5, 2.5, 0.6, 3], abs=0.13)
        # 56 frames at 30 a second are 46 and 2/3 at 25; 30 frames -> 59 by interpolation, of which 47 are kept.
        seen = ClipDataset(cfg, "test")[1]["clip"][0].float().mean((1, 2)) / 8
        assert seen.tolist() == pytest.approx([0, 3, 6.5, 9.5, 13, 16, 19.5, 22.5], abs=0.25)


def test_folder_has_the_target_frame_rate(tmp_path, make_frames):
    (tmp_path / "test.csv").write_text(f"{make_frames(tmp_path / 'clip', 40)} 0\n")
    options = {"num_frames": 4, "sampling_rate": 8, "views": 1, "target_fps": 12}
    clip = ClipDataset(configuration(tmp_path, tmp_path, 1, options), "test")[0]["clip"]
    assert (clip[0, :, 0, 0] / 4).tolist() == [0, 10, 20, 31]


def test_one_crop_is_the_centre_of_a_larger_frame(ramp, tmp_path):
    for split in ("val", "test"):
        (tmp_path / f"{split}.csv").write_text(f"{ramp}{'/' * (split == 'test')} 0\n")
        options = {"num_frames": 1, "sampling_rate": 1, "views": 1, "target_fps": 30, "jitter": (32, 40), "crops": 1}
        cfg = configuration(tmp_path, tmp_path, 1, {**options, "crop_size": 24})
        clip = ClipDataset(cfg, split)[0]["clip"][:, 0]
        # 64 x 96 becomes 32 x 48, of which rows 4 to 27 and columns 12 to 35 are cut out.
        assert clip[0, 0].tolist() == [2 * (2 * column + 0.5) // 1 for column in range(12, 36)]
        assert clip[1, :, 0].tolist() == pytest.approx([3 * (2 * row + 0.5) for row in range(4, 28)], abs=0.5)


def test_one_crop_of_ssv2(ramp, tmp_path):
    cfg = configuration(tmp_path, tmp_path, 1, {"num_frames": 1, "sampling_rate": 1, "views": 1, "target_fps": 30})
    cfg.TEST.DATASET, cfg.TEST.NUM_SPATIAL_CROPS = "ssv2", 1
    cfg.DATA.TEST_CROP_SIZE, cfg.DATA.TRAIN_JITTER_SCALES = 32, [48, 64]
    (view,) = make_views(ClipMaker(cfg, "test"), str(ramp), [0], 0)
    assert view.clip[1, 0, [0, -1], 0].tolist() == pytest.approx([3 * 0.5, 3 * 62.5], abs=0.6)  # rows 0 to 63
