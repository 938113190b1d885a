"""Finished runs with random results; a model that attends to brightness, and videos with a moving bright patch."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.conftest import load_command
from timesformer.config.load import get_cfg
from timesformer.models import build_model

CallTool = Callable[..., int]

CELL = 12  # pixels of a frame's grid of 4 x 8

MakeRun = Callable[..., Path]
MakeVideo = Callable[[list[tuple[int, int]]], Path]
MakeCheckpoint = Callable[..., Path]


@pytest.fixture
def call_tool(monkeypatch: pytest.MonkeyPatch) -> CallTool:
    """call_tool(*arguments): the exit code of tools/report.py."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["report.py", *map(str, arguments)])
        return load_command("report").main()

    return call


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
        cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.DATA.PRE_SAMPLING.ENABLED = 4, 1, False
        cfg.DATA.TRAIN_CROP_SIZE = cfg.DATA.TEST_CROP_SIZE = 32
        cfg.DATA.TRAIN_JITTER_SCALES = [32, 32]
        cfg.TEST.NUM_ENSEMBLE_VIEWS = cfg.TEST.NUM_SPATIAL_CROPS = cfg.TIMESFORMER.NUM_HEADS = 1
        cfg.TIMESFORMER.PATCH_SIZE = cfg.TIMESFORMER.EMBED_DIM = 8
        cfg.TIMESFORMER.DEPTH, cfg.MODEL.NUM_CLASSES, cfg.MODEL.MODEL_NAME = 2, 3, "TimeSformer"
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
        path, progress = tmp_path / "seeker.pyth", {"class_names": ["down", "still", "up"]}
        torch.save({"model_state": model.state_dict(), "cfg": cfg.dump(), "progress": progress, "epoch": 1}, path)
        return path

    return make


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """make_run(name, classes, ...): the folder of a finished run with random results."""

    def make(
        name: str,
        classes: int | list[str],
        videos: int = 60,
        seed: int = 0,
        unreadable: int = 0,
        epochs: int = 3,
        options: dict[str, Any] | None = None,
    ) -> Path:
        folder, random = tmp_path_factory.mktemp("runs") / name, np.random.default_rng(seed)
        folder.mkdir()
        names = [f"class{number}" for number in range(classes)] if isinstance(classes, int) else classes
        labels = np.arange(videos) % max(1, len(names) - 1)  # the last class has no videos
        predicted = np.where(random.random(videos) < 0.7, labels, random.integers(0, len(names), videos))
        k = min(5, len(names))
        rows = [["video", "label", *(f"{of}_{n}" for n in range(1, k + 1) for of in ("class", "probability")), "error"]]
        for video, first in enumerate(predicted):
            others = [number for number in range(len(names)) if number != first][: k - 1]
            shares = [0.5 + 0.4 * random.random(), *[0.1 / k] * (k - 1)]
            cells = [cell for n, p in zip([first, *others], shares, strict=True) for cell in (names[n], f"{p:.6f}")]
            cells = [*[""] * 2 * k, "torn"] if video < unreadable else [*cells, ""]
            rows.append([f"v{video:03d}", names[labels[video]], *cells])
        with (folder / "predictions.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
        read = np.arange(videos) >= unreadable
        correct = (predicted == labels) & read
        per_class = []
        for number, class_name in enumerate(names):
            total, hits = int((labels == number).sum()), int((correct & (labels == number)).sum())
            row = {"class": class_name, "num_videos": total, "correct": hits, "top1": 100 * hits / max(total, 1)}
            row |= {"top1": None} if not total else {}
            per_class.append({**row, "predicted": int((predicted[read] == number).sum())})
        cfg = get_cfg()
        cfg.merge_from_list([part for pair in (options or {}).items() for part in pair])
        results = {"schema_version": 2, "top1": 100.0 * correct.mean(), "top5": 100.0, "mean_class_top1": 60.0}
        results |= {"num_videos": videos, "num_classes": len(names), "num_views": 2, "class_names": names}
        counts = {"train": [*range(7, 7 + len(names))], "val": None, "test": np.bincount(labels).tolist()}
        results |= {"per_class": per_class, "class_counts": counts, "loss": 0.5, "val_top1": 70.0, "device": "CPU"}
        results["unreadable"] = [{"video": f"v{video:03d}", "reason": "torn"} for video in range(unreadable)]
        results |= {"seconds": 4.0, "train_seconds": 65.0, "total_train_seconds": 3725.0}
        results |= {"checkpoint": f"{folder}/checkpoints/best.pyth", "checkpoint_epochs": epochs}
        results |= {"total_epochs": epochs + 4, "finished": "2026-01-02T03:04:05+00:00"}
        results |= {"config": yaml.safe_load(cfg.dump()), "versions": {"torch": "2.13.0"}}
        (folder / "results.json").write_text(json.dumps(results))
        metrics = []
        for epoch in range(1, epochs + 1):
            values = {"epoch": epoch, "loss": 2.0 / epoch, "top1": 30.0 * epoch}
            metrics.append({"kind": "train_step", **values, "lr": 0.1, "clips_per_second": 9.0, "data_share": 0.1})
            metrics.append({"kind": "train_epoch", **values})
            metrics.append({"kind": "val_epoch", **values, "top5": 99.0, "mean_class_top1": 20.0})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
        return folder

    return make
