"""A model that looks at what is bright, and videos in which something bright moves."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from timesformer.config.load import get_cfg
from timesformer.models import build_model

CELL = 12  # pixels of a frame's grid of 4 x 8

MakeVideo = Callable[[list[tuple[int, int]]], Path]
MakeCheckpoint = Callable[..., Path]


@pytest.fixture
def moving_patch(tmp_path: Path) -> MakeVideo:
    """moving_patch(cells): a folder of dark frames, 48 x 96, with one bright cell of a grid of 4 x 8 in each."""

    def make(cells: list[tuple[int, int]]) -> Path:
        folder = tmp_path / "moving"
        folder.mkdir()
        for number, (row, column) in enumerate(cells):
            frame = np.full((48, 96, 3), 20, np.uint8)
            frame[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = (250, 240, 230)
            Image.fromarray(frame).save(folder / f"{number:03}.png")
        return folder

    return make


@pytest.fixture
def bright_seeker(tmp_path: Path) -> MakeCheckpoint:
    """bright_seeker(*options): checkpoint of a TimeSformer of 4 frames of 4 x 4 patches, whose weights are set by hand
    so that every token attends to the brightest patches of a frame. `options` are KEY, VALUE, ..."""

    def make(*options: object) -> Path:
        cfg = get_cfg()
        size = {"PATCH_SIZE": 8, "EMBED_DIM": 8, "DEPTH": 2, "NUM_HEADS": 1}
        for section, values in {
            "DATA": {"NUM_FRAMES": 4, "SAMPLING_RATE": 1, "TRAIN_CROP_SIZE": 32, "TEST_CROP_SIZE": 32},
            "MODEL": {"MODEL_NAME": "TimeSformer", "NUM_CLASSES": 3},
            "TEST": {"NUM_ENSEMBLE_VIEWS": 1, "NUM_SPATIAL_CROPS": 1},
            "TIMESFORMER": size,
        }.items():
            cfg[section].update(values)
        cfg.DATA.PRE_SAMPLING.ENABLED = False
        cfg.merge_from_list(list(options))
        model = build_model(cfg)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            transformer = model.model
            transformer.patch_embed.proj.weight[0] = 1 / transformer.patch_embed.proj.weight[0].numel()
            transformer.patch_embed.proj.bias[1] = 1.0
            for block in transformer.blocks:
                block.attn.qkv.bias[0] = 20.0  # every query asks for
                block.attn.qkv.weight[8, 0] = 1.0  # the key's brightness
            transformer.head.bias[1] = 2.0
        path = tmp_path / "seeker.pyth"
        names = ["down", "still", "up"]
        torch.save(
            {"model_state": model.state_dict(), "cfg": cfg.dump(), "progress": {"class_names": names}, "epoch": 1}, path
        )
        return path

    return make
