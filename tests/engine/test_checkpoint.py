"""Checkpoints on disk: which are found, damaged, or kept, and what is restored."""

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from timesformer.config import get_cfg
from timesformer.datasets.records import Records
from timesformer.engine.checkpoint import (
    Stateful,
    is_undamaged,
    newest_checkpoint,
    remove_superseded,
    restore,
    save,
    save_best,
)
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


def test_newest_checkpoint_may_be_mid_epoch(cfg: CfgNode, objects: dict[str, Stateful]) -> None:
    assert newest_checkpoint(cfg) is None
    for epoch, iteration in ((9, 900), (10, 0), (10, 8), (10, 20), (2, 9000)):
        save(cfg, objects, Progress(epoch, iteration))
    path, content = newest_checkpoint(cfg)
    assert path.name == "checkpoint_epoch_00010_iteration_00000020.pyth"
    assert content["epoch"] == 9
    assert restore(cfg, path, content, (), objects).position == (10, 20)


def test_damage_is_detected(cfg: CfgNode, objects: dict[str, Stateful]) -> None:
    path = save(cfg, objects, Progress(1))
    whole, numbers, detected = path.read_bytes(), random.Random(0), 0
    expected = str(torch.load(path, weights_only=True))
    for position in numbers.sample(range(len(whole)), 100):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << numbers.randrange(8)
        path.write_bytes(damaged)
        try:
            assert str(newest_checkpoint(cfg)[1]) == expected, position  # the archive has padding and unused bytes
        except UserError:
            detected += 1
    assert detected > 50
    # A zip entry is a folder by one bit, 38 bytes into its header, which no checksum covers.
    for header in (match.start() for match in re.finditer(b"PK\x01\x02", whole)):
        damaged = bytearray(whole)
        damaged[header + 38] ^= 0x10
        path.write_bytes(damaged)
        assert not is_undamaged(path)


def test_damaged_newest_checkpoint_is_skipped(cfg: CfgNode, objects: dict[str, Stateful]) -> None:
    first, second = save(cfg, objects, Progress(1)), save(cfg, objects, Progress(1, 5))
    content = bytearray(second.read_bytes())
    content[content.find(objects["model"].weight.detach().numpy().tobytes()) + 100] ^= 1
    second.write_bytes(content)
    torch.load(second, weights_only=True)  # does not detect it
    assert newest_checkpoint(cfg)[0] == first
    first.write_bytes(b"PK")
    with pytest.raises(UserError, match=first.name):
        newest_checkpoint(cfg)


def test_legacy_format_without_checksums_is_accepted(cfg: CfgNode, objects: dict[str, Stateful]) -> None:
    path = save(cfg, objects, Progress(1))
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    assert newest_checkpoint(cfg)[0] == path


def test_fields_of_newer_versions_are_ignored_with_a_warning(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    path = save(cfg, new_objects(cfg), Progress(3, 4, 8, best_top1=50.0, class_names=["walk"]))
    content, reference = (torch.load(path, weights_only=True) for _ in range(2))
    for state in (content, *(content[f"{name}_state"] for name in ("optimizer", "figures", "unreadable"))):
        state["newer_state"] = {"x": 1.0}
    content["progress"]["newer_field"] = content["optimizer_state"]["param_groups"][0]["newer_option"] = True
    content["cfg"] = content["cfg"].replace("TIMESFORMER:\n", "TIMESFORMER:\n  NEWER_KEY: 1\n")
    objects: dict[str, Any] = new_objects(cfg)
    objects["unreadable"].reasons.clear()
    assert vars(restore(cfg, path, content, ("walk",), objects)) == reference["progress"]
    for name in ("model", "figures", "unreadable"):
        assert str(objects[name].state_dict()) == str(reference[f"{name}_state"]), name
    assert str(objects["optimizer"].state_dict()["state"]) == str(reference["optimizer_state"]["state"])
    assert all(name in caplog.text for name in ("newer_field", "newer_state", "TIMESFORMER.NEWER_KEY"))


@pytest.mark.parametrize("missing", [*vars(Progress()), "figures_state"])
def test_missing_fields_of_older_versions_have_defaults(
    cfg: CfgNode, objects: dict[str, Stateful], missing: str
) -> None:
    counts = {"epoch": 3, "iteration": 4, "batch_size": 8, "validated": 2, "not_better": 1, "seconds": 60.0}
    saved = Progress(**counts, best_top1=50.0, best_loss=1.5, best_epoch=1, class_names=["walk"])
    path = save(cfg, objects, saved)
    content = torch.load(path, weights_only=True)
    (content["progress"] if hasattr(saved, missing) else content).pop(missing)
    progress = restore(cfg, path, content, ("walk",), objects)
    known = {"epoch": 3, "validated": 3, "class_names": ["walk"]}  # follow from the rest
    default = {missing: known.get(missing, getattr(Progress(), missing))} if hasattr(saved, missing) else {}
    assert vars(progress) == vars(saved) | default


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
    for section, key, value in (("MODEL", "FREEZE", "backbone"), ("SOLVER", "LAYER_DECAY", 0.5)):
        other = cfg.clone()
        other[section][key] = value
        with pytest.raises(UserError, match=rf"{section}\.{key}"):
            restore(other, path, content, (), objects)


def test_all_epochs_and_two_mid_epoch_checkpoints_are_kept(cfg: CfgNode, objects: dict[str, Stateful]) -> None:
    save_best(cfg, objects["model"], Progress(1))
    for epoch, iteration in ((0, 2), (0, 4), (1, 0), (1, 2), (1, 4), (1, 6), (2, 0)):
        progress = Progress(epoch, iteration)
        save(cfg, objects, progress)
        remove_superseded(cfg, progress, finished=False)
        if (epoch, iteration) == (1, 0):
            assert names(cfg) == ["best", "checkpoint_epoch_00000_iteration_00000004", "checkpoint_epoch_00001"]
    mid_epoch = "checkpoint_epoch_00001_iteration_00000006"
    assert names(cfg) == ["best", "checkpoint_epoch_00001", mid_epoch, "checkpoint_epoch_00002"]
    remove_superseded(cfg, progress, finished=True)
    assert names(cfg) == ["best", "checkpoint_epoch_00001", "checkpoint_epoch_00002"]


def test_keep_checkpoints(cfg: CfgNode, objects: dict[str, Stateful]) -> None:
    cfg.TRAIN.KEEP_CHECKPOINTS = 2
    save_best(cfg, objects["model"], Progress(1))
    save(cfg, objects, Progress(9)).write_bytes(b"PK")  # damaged, and ahead
    for epoch in (1, 2, 3, 4):
        save(cfg, objects, Progress(epoch))
        remove_superseded(cfg, Progress(epoch), finished=False)
    assert names(cfg) == ["best", "checkpoint_epoch_00003", "checkpoint_epoch_00004", "checkpoint_epoch_00009"]
