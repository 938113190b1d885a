"""A trainer of clips in memory, without data on disk, and comparing checkpoints."""

from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader, Dataset

from timesformer.config import get_cfg
from timesformer.datasets.catalog import Splits
from timesformer.datasets.loader import EpochBatchSampler, collate
from timesformer.datasets.records import Records
from timesformer.engine.trainer import Trainer
from timesformer.models import build_model
from timesformer.models.lora import add_low_rank_updates
from timesformer.runtime.device import choose_device


class Clips(Dataset[dict[str, Any]]):
    """`number` random clips of 3 classes."""

    split, class_names, num_views = "train", ("a", "b", "c"), 1

    def __init__(self, number: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.clips = torch.randint(0, 256, (number, 3, 2, 16, 16), dtype=torch.uint8, generator=generator)
        self.records = Records((f"clip{n}" for n in range(number)), (n % 3 for n in range(number)))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        index = key[1]
        item = {"clip": self.clips[index], "label": int(self.records.labels[index]), "video": index, "view": 0}
        return item | {"readable": True, "errors": {}}


class Recorder:
    """Keeps the metrics that a run writes, by kind."""

    def __init__(self) -> None:
        self.written: dict[str, list[dict[str, float]]] = {}

    def write(self, kind: str, epoch: float, metrics: dict[str, float]) -> None:
        self.written.setdefault(kind, []).append(metrics)


def small_cfg(output: object) -> CfgNode:
    """A small TimeSformer of 3 classes without randomness, for one epoch on the CPU."""
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.NUM_GPUS, cfg.TENSORBOARD.ENABLE = str(output), 0, False
    cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.NUM_FRAMES, cfg.MODEL.NUM_CLASSES = 16, 2, 3
    cfg.TIMESFORMER.EMBED_DIM, cfg.TIMESFORMER.DEPTH, cfg.TIMESFORMER.NUM_HEADS = 16, 2, 2
    cfg.TIMESFORMER.PATCH_SIZE, cfg.TIMESFORMER.DROP_PATH_RATE, cfg.TIMESFORMER.INIT = 8, 0.0, "scratch"
    cfg.SOLVER.BASE_LR, cfg.SOLVER.LR_POLICY, cfg.SOLVER.MAX_EPOCH = 0.1, "cosine", 1
    return cfg


def new_model(cfg: CfgNode, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The same model each time, which computes in this type."""
    torch.manual_seed(0)
    model = build_model(cfg)
    if cfg.MODEL.LORA_RANK:
        add_low_rank_updates(model, cfg.MODEL.LORA_RANK, cfg.MODEL.LORA_ALPHA, "all", ["time_embed", "norm1"])
    model = model.to(choose_device(cfg), dtype)
    if dtype != torch.float32:
        model.register_forward_pre_hook(lambda _, clips: (clips[0].to(dtype),))
    return model


def loader_of(clips: Dataset, batch_size: int, shuffle: bool = False, workers: int = 0) -> DataLoader:
    sampler = EpochBatchSampler(len(clips), batch_size, 0, shuffle)
    return DataLoader(clips, batch_sampler=sampler, collate_fn=collate, num_workers=workers)


def trainer_of(cfg: CfgNode, model: nn.Module, loader: DataLoader, epoch: int = 0) -> Trainer:
    """A trainer that is set up but for data and model; `writer` is a `Recorder`."""
    trainer = Trainer(cfg, Splits(cfg))
    trainer.model, trainer.train_loader, trainer.writer = model, loader, Recorder()
    trainer.setup_optimizer()
    trainer.setup_loss()
    trainer.setup_forward()
    trainer.progress.epoch = epoch
    return trainer


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """Bit for bit, but for the training time."""
    found, expected = (torch.load(path, weights_only=True) for path in (one, other))
    for content in (found, expected):
        del content["progress"]["seconds"], content["cfg"]
    (values, structure), (others, other) = map(torch.utils._pytree.tree_flatten, (found, expected))
    assert structure == other
    for value, other in zip(values, others, strict=True):
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
