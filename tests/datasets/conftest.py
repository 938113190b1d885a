"""Small clips on disk, and a small configuration that reads them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode
from PIL import Image

from tests.datasets.made_videos import encode
from timesformer.config import get_cfg


@pytest.fixture
def make_frames() -> Callable[..., Path]:
    """make_frames(folder, n): a folder of n PNG frames with brightness 0, 4, 8, ..."""

    def make(folder: Path, n: int, width: int = 32, height: int = 24) -> Path:
        folder.mkdir(parents=True)
        for number in range(n):
            Image.new("RGB", (width, height), (4 * number,) * 3).save(folder / f"frame{number}.png")
        return folder

    return make


@pytest.fixture
def make_video() -> Callable[..., Path]:
    """make_video(file, frames, codec="mpeg4", **options): a video file of uint8 (H, W, 3) frames."""
    return encode


@pytest.fixture
def hmdb_root(tmp_path: Path, make_frames: Callable[..., Path]) -> Path:
    """Layout (b): two classes, of 4 training, 2 validation and 2 test clips of 10 to 13 frames each."""
    root = tmp_path / "split_by_folder"
    number = 0
    for split, clips in {"train": 4, "val": 2, "test": 2}.items():
        for label in ("wave", "catch"):
            for _ in range(clips):
                make_frames(root / split / label / f"clip{number}", 10 + number % 4)
                number += 1
    return root


@pytest.fixture
def cfg(hmdb_root: Path) -> CfgNode:
    """Configuration of `hmdb_root`: 4 frames at stride 2, 16 x 16 pixels, loaded in the main process."""
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "hmdb_simp"
    cfg.TRAIN.BATCH_SIZE = cfg.TEST.BATCH_SIZE = 3
    cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS = 2, 3
    cfg.DATA.PATH_TO_DATA_DIR = str(hmdb_root)
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE = 4, 2
    cfg.DATA.TRAIN_CROP_SIZE = cfg.DATA.TEST_CROP_SIZE = 16
    cfg.DATA.TRAIN_JITTER_SCALES = [18, 24]
    cfg.MODEL.NUM_CLASSES = 2
    cfg.DATA_LOADER.NUM_WORKERS = 0
    return cfg
