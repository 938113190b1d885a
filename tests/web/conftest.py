"""A small model, clips with different predictions, and files that are not videos."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.datasets.made_videos import encode
from tests.models.small import randomize
from timesformer.config import get_cfg
from timesformer.models import build_model

CLASSES = ("clap & wave", "jump", "walk", "run", "sit", "stand", "turn")


def write_clip(path: Path, seed: int, frames: int = 12, rate: Fraction | int = 10, size: int = 32) -> Path:
    """A short H.264 clip of noise on a color, different for each seed."""
    random = np.random.default_rng(seed)
    pictures = random.integers(0, 256, 3) + random.normal(0, 40, (frames, size, size, 3))
    options = {"format_options": {"movflags": "faststart"}, "container_format": "mp4"}
    return encode(path, list(pictures.clip(0, 255).astype(np.uint8)), "libx264", rate=rate, **options)


def write_model(path: Path, classes: tuple[str, ...], sharpness: float) -> Path:
    """A checkpoint of an untrained model, with higher confidence for higher sharpness."""
    cfg = get_cfg()
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.DATA.SAMPLER = 4, 2, "uniform"
    cfg.DATA.TRAIN_CROP_SIZE = cfg.DATA.TEST_CROP_SIZE = 16
    cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS = 2, 1
    cfg.MODEL.MODEL_NAME, cfg.MODEL.NUM_CLASSES = "TimeSformer", len(classes)
    cfg.TIMESFORMER.PATCH_SIZE, cfg.TIMESFORMER.EMBED_DIM = 8, 16
    cfg.TIMESFORMER.DEPTH, cfg.TIMESFORMER.NUM_HEADS = 2, 2
    model = randomize(build_model(cfg, fresh=True), std=0.3)
    with torch.no_grad():
        for parameter in model.model.head.parameters():
            parameter.mul_(sharpness)
    content = {"model_state": model.state_dict(), "cfg": cfg.dump(), "progress": {"class_names": classes}}
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A confident model of CLASSES with 2 views of 4 frames."""
    return write_model(tmp_path_factory.mktemp("model") / "best.pyth", CLASSES, 3.0)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight different clips."""
    folder = tmp_path_factory.mktemp("clips")
    return [write_clip(folder / f"clip{seed}.mp4", seed) for seed in range(8)]


@pytest.fixture(scope="session")
def no_clips(tmp_path_factory: pytest.TempPathFactory, clips: list[Path]) -> Callable[[str], Path]:
    """no_clips(name): one of the files below, with the extension of a video."""
    whole = clips[0].read_bytes()
    contents = {
        "text": b"This is no video.\n" * 50,
        "empty": b"",
        "cut": whole[: len(whole) * 2 // 3],
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "concat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        "huge frames": b"GIF89a\xff\xff\xff\xff\x80\0\0"
        + bytes(6)
        + b"\x2c\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x4c\x01\0;",
        "noise": np.random.default_rng(0).bytes(5000),
    }
    folder = tmp_path_factory.mktemp("no_clips")

    def file(name: str) -> Path:
        if not (path := folder / f"{name}.mp4").exists():
            path.write_bytes(contents[name])
        return path

    return file
