"""Checkpoints on disk: which are found, damaged, or kept, and what is restored."""

import random
import re
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from timesformer.config import get_cfg
from timesformer.datasets.records import Records
from timesformer.engine.checkpoint import Stateful, newest_checkpoint, remove_superseded, restore, save, save_best
from timesformer.engine.meters import TrainingMetrics
from timesformer.engine.optim import construct_optimizer
from timesformer.engine.progress import Progress
from timesformer.engine.unreadable import UnreadableClips
from timesformer.errors import UserError


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SOLVER.OPTIMIZING_METHOD = str(tmp_path / "out"), "adamw"
    return cfg


def new_objects(cfg: CfgNode) -> dict[str, Stateful]:
    """What a run saves, after a step."""
    model = nn.Linear(8, 8)
    optimizer = construct_optimizer(model, cfg)
    model(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    metrics, unreadable = TrainingMetrics(), UnreadableClips(cfg, "train", Records((), ()))
    metrics.add(torch.rand(()), torch.tensor(1), 2)
    unreadable.reasons["walk/1"] = "broken"
    return {"model": model, "optimizer": optimizer, "figures": metrics, "unreadable": unreadable}


@pytest.fixture
def objects(cfg: CfgNode) -> dict[str, Stateful]:
    return new_objects(cfg)


def names(cfg: CfgNode) -> list[str]:
    return sorted(path.stem for path in (Path(cfg.OUTPUT_DIR) / "checkpoints").iterdir())


def test_damaged_checkpoints_are_skipped(cfg: CfgNode, objects: dict[str, Stateful]) -> None:
    first, path = save(cfg, objects, Progress(1)), save(cfg, objects, Progress(1, 5))
    whole, numbers, skipped = path.read_bytes(), random.Random(0), 0
    expected = str(torch.load(path, weights_only=True))
    flips = [(position, 1 << numbers.randrange(8)) for position in numbers.sample(range(len(whole)), 100)]
    # A zip entry is a folder by one bit, 38 bytes into its header, which no checksum covers.
    flips += [(match.start() + 38, 0x10) for match in re.finditer(b"PK\x01\x02", whole)]
    for position, bit in flips:
        damaged = bytearray(whole)
        damaged[position] ^= bit
        path.write_bytes(damaged)
        found, content = newest_checkpoint(cfg)
        assert found == first or str(content) == expected, position  # the archive has padding and unused bytes
        skipped += found == first
    assert skipped > 50
    for checkpoint in (first, path):
        checkpoint.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=first.name):
        newest_checkpoint(cfg)


def test_fields_of_newer_versions_are_ignored_with_a_warning(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    path = save(cfg, new_objects(cfg), Progress(3, 4, 8, best_top1=50.0, class_names=["walk"]))
    content, reference = (torch.load(path, weights_only=True) for _ in range(2))
    for state in (content, *(content[f"{name}_state"] for name in ("optimizer", "figures", "unreadable"))):
        state["newer_state"] = {"x": 1.0}
    content["progress"]["newer_field"] = content["optimizer_state"]["param_groups"][0]["newer_option"] = True
    content["cfg"] = content["cfg"].replace("TIMESFORMER:\n", "TIMESFORMER:\n  NEWER_KEY: 1\n")
    objects = new_objects(cfg)
    assert vars(restore(cfg, path, content, ("walk",), objects)) == reference["progress"]
    for name in ("model", "figures", "unreadable"):
        assert str(objects[name].state_dict()) == str(reference[f"{name}_state"]), name
    assert str(objects["optimizer"].state_dict()["state"]) == str(reference["optimizer_state"]["state"])
    assert all(name in caplog.text for name in ("newer_field", "newer_state", "TIMESFORMER.NEWER_KEY"))


def test_missing_fields_of_older_versions_have_defaults(cfg: CfgNode, objects: dict[str, Stateful]) -> None:
    path = save(cfg, objects, Progress(3, 4, validated=2, best_top1=50.0))
    content = torch.load(path, weights_only=True)
    for name in ("progress", "figures_state", "unreadable_state"):  # the original has none of these
        del content[name]
    assert restore(cfg, path, content, ("walk",), objects) == Progress(epoch=3, validated=3, class_names=["walk"])


def test_options_on_resume(cfg: CfgNode, objects: dict[str, Stateful], caplog: pytest.LogCaptureFixture) -> None:
    path = save(cfg, objects, Progress(1))
    content = torch.load(path, weights_only=True)
    content["cfg"] = "\n".join(line for line in content["cfg"].splitlines() if "FREEZE" not in line)  # an older version
    restore(cfg, path, content, (), objects)
    assert not caplog.messages
    cfg.SOLVER.WEIGHT_DECAY = 0.5
    resumed = construct_optimizer(objects["model"], cfg)
    restore(cfg, path, content, (), objects | {"optimizer": resumed})
    assert "SOLVER.WEIGHT_DECAY" in caplog.text
    assert resumed.param_groups[0]["weight_decay"] == 0.5
    assert str(resumed.state_dict()["state"]) == str(objects["optimizer"].state_dict()["state"])


@pytest.mark.parametrize(("keep", "kept"), [(0, ["00001", "00002", "00003"]), (2, ["00002", "00003"])])
def test_kept_checkpoints(cfg: CfgNode, objects: dict[str, Stateful], keep: int, kept: list[str]) -> None:
    cfg.TRAIN.KEEP_CHECKPOINTS, epochs = keep, [f"checkpoint_epoch_{epoch}" for epoch in kept]
    save_best(cfg, objects["model"], Progress(1))
    save(cfg, objects, Progress(9)).write_bytes(b"PK")  # damaged, and ahead
    for epoch, iteration in ((0, 2), (0, 4), (1, 0), (2, 0), (2, 2), (2, 4), (2, 6), (3, 0)):
        progress = Progress(epoch, iteration)
        save(cfg, objects, progress)
        remove_superseded(cfg, progress, finished=False)
    ahead, mid_epoch = "checkpoint_epoch_00009", "checkpoint_epoch_00002_iteration_00000006"
    assert names(cfg) == sorted(["best", *epochs, mid_epoch, ahead])
    remove_superseded(cfg, progress, finished=True)
    assert names(cfg) == ["best", *epochs, ahead]
