"""Checkpoints on disk: which are found, which are damaged, which are kept."""

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
    Part,
    Progress,
    is_undamaged,
    newest_checkpoint,
    remove_superseded,
    restore,
    save,
    save_best,
)
from timesformer.engine.meters import TrainingFigures
from timesformer.engine.optim import construct_optimizer
from timesformer.engine.unreadable import UnreadableClips
from timesformer.engine.update import Update


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    return cfg


@pytest.fixture
def parts(cfg: CfgNode) -> dict[str, Part]:
    model = nn.Linear(8, 8)
    return {"model": model, "optimizer": construct_optimizer(model, cfg)}


def names(cfg: CfgNode) -> list[str]:
    return sorted(path.stem for path in (Path(cfg.OUTPUT_DIR) / "checkpoints").iterdir())


def test_the_newest_checkpoint_is_the_furthest_amid_an_epoch_too(cfg: CfgNode, parts: dict[str, Part]) -> None:
    for epoch, iteration in ((9, 900), (10, 0), (10, 8), (10, 20), (2, 9000)):
        save(cfg, parts, Progress(epoch, iteration))
    path, content = newest_checkpoint(cfg)
    assert path.name == "checkpoint_epoch_00010_iteration_00000020.pyth"
    assert content["epoch"] == 9
    progress = restore(cfg, path, content, (), parts)
    assert progress.position == (10, 20)


def test_any_damaged_byte_of_a_checkpoint_is_noticed_if_it_matters(cfg: CfgNode, parts: dict[str, Part]) -> None:
    path = save(cfg, parts, Progress(1))
    whole, random_numbers, noticed = path.read_bytes(), random.Random(0), 0
    expected = str(torch.load(path, weights_only=True))
    for position in random_numbers.sample(range(len(whole)), 200):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << random_numbers.randrange(8)
        path.write_bytes(damaged)
        if not is_undamaged(path):
            noticed += 1
        else:  # the archive has bytes to fill up and others that nobody reads
            assert newest_checkpoint(cfg) is None or str(newest_checkpoint(cfg)[1]) == expected, position
    assert noticed > 100


def test_an_entry_that_damage_makes_a_folder_is_noticed(cfg: CfgNode, parts: dict[str, Part]) -> None:
    path = save(cfg, parts, Progress(1))
    whole = path.read_bytes()
    headers = [match.start() for match in re.finditer(b"PK\x01\x02", whole)]
    assert len(headers) > 3
    for header in headers:  # the attributes stand 38 bytes behind it, and no sum covers them
        damaged = bytearray(whole)
        damaged[header + 38] ^= 0x10
        path.write_bytes(damaged)
        assert not is_undamaged(path)


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    cfg: CfgNode, parts: dict[str, Part], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = save(cfg, parts, Progress(1)), save(cfg, parts, Progress(1, 5))
    content = bytearray(second.read_bytes())
    weights = content.find(parts["model"].weight.detach().numpy().tobytes())
    assert weights > 0
    content[weights + 100] ^= 1
    second.write_bytes(content)
    torch.load(second, weights_only=True)  # does not notice
    assert newest_checkpoint(cfg)[0] == first
    assert caplog.messages == [f"{second} is damaged or cut short; it is passed over"]


def test_a_file_of_the_older_format_has_no_sum_and_is_taken(cfg: CfgNode, parts: dict[str, Part]) -> None:
    path = save(cfg, parts, Progress(1))
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    assert newest_checkpoint(cfg)[0] == path


def test_a_checkpoint_older_than_a_part_leaves_it_as_it_is(cfg: CfgNode, parts: dict[str, Part]) -> None:
    save(cfg, parts, Progress(3, best_top1=50.0))
    path, content = newest_checkpoint(cfg)
    content["progress"] = {"epoch": 3, "best_top1": 50.0, "best_loss": 1.0, "best_epoch": 2, "class_names": []}
    younger = nn.Linear(1, 1)
    progress = restore(cfg, path, content, (), {**parts, "younger": younger})
    assert (progress.position, progress.validated) == ((3, 0), 3)  # it had been written after validating


@pytest.fixture
def newer(cfg: CfgNode) -> tuple[Path, dict[str, Any], dict[str, Part]]:
    """A checkpoint with an unknown name in each of its parts, and the parts of another run to restore it into."""
    cfg.EMA.ENABLED, cfg.SOLVER.OPTIMIZING_METHOD = True, "adamw"

    def all_parts(scale: float) -> dict[str, Any]:
        model = nn.Linear(8, 8)
        update = Update(cfg, model)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        figures, unreadable = TrainingFigures(), UnreadableClips(cfg, "train", Records((), ()))
        parts = {"model": model, **update.parts, "scaler": scaler, "figures": figures, "unreadable": unreadable}
        model(torch.ones(1, 8)).sum().backward()
        update.step(0.1)
        figures.add(torch.tensor(6.0), torch.tensor(1), 2)
        unreadable.reasons["walk/1"] = "broken"
        return parts

    saved, fresh = all_parts(8.0), all_parts(16.0)
    fresh["figures"].clear()
    fresh["unreadable"].reasons.clear()
    path = save(cfg, saved, Progress(3, 4, 8, best_top1=50.0, class_names=["walk"]))
    content = torch.load(path, weights_only=True)
    for state in (content, content["progress"], *(value for key, value in content.items() if key.endswith("_state"))):
        if state is not content["model_state"]:
            state["of_a_newer_version"] = [1.0, 2]
    content["optimizer_state"]["param_groups"][0]["of_a_newer_version"] = True
    content["newer_state"] = {"of_a_newer_version": 1}
    content["cfg"] = content["cfg"].replace("TIMESFORMER:\n", "TIMESFORMER:\n  OF_A_NEWER_VERSION: 1\n")
    content["reference"] = torch.load(path, weights_only=True)
    return path, content, fresh


def test_what_a_newer_version_adds_to_a_checkpoint_is_ignored_with_a_note(
    cfg: CfgNode, newer: tuple[Path, dict[str, Any], dict[str, Part]], caplog: pytest.LogCaptureFixture
) -> None:
    path, content, parts = newer
    reference = content.pop("reference")
    progress = restore(cfg, path, content, ("walk",), parts)
    assert vars(progress) == reference["progress"]
    for name in ("model", "ema", "scaler", "figures", "unreadable"):
        assert str(parts[name].state_dict()) == str(reference[f"{name}_state"]), name
    moments = parts["optimizer"].state_dict()["state"]
    assert str(moments) == str(reference["optimizer_state"]["state"])
    notes = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("of_a_newer_version" in note for note in notes)
    assert any("newer_state" in note for note in notes)
    assert any("TIMESFORMER.OF_A_NEWER_VERSION" in note for note in notes)


@pytest.mark.parametrize("lost", vars(Progress()))
def test_a_field_that_an_older_checkpoint_lacks_has_its_default(
    cfg: CfgNode, parts: dict[str, Part], lost: str
) -> None:
    numbers = {"epoch": 3, "iteration": 4, "batch_size": 8, "validated": 2, "not_better": 1, "seconds": 60.0}
    whole = Progress(**numbers, best_top1=50.0, best_loss=1.5, best_epoch=1, class_names=["walk"])
    path = save(cfg, parts, whole)
    content = torch.load(path, weights_only=True)
    del content["progress"][lost]
    progress = restore(cfg, path, content, ("walk",), parts)
    known = {"epoch": 3, "validated": 3, "class_names": ["walk"]}  # follow from the rest of the checkpoint and the data
    assert vars(progress) == {**vars(whole), lost: known.get(lost, getattr(Progress(), lost))}


def test_no_validation_is_told_from_an_accuracy_of_zero_in_checkpoints_of_older_versions_too(
    cfg: CfgNode, parts: dict[str, Part]
) -> None:
    for best, expected in ((-1.0, None), (0.0, 0.0)):
        path = save(cfg, parts, Progress(3, best_top1=best))
        assert restore(cfg, path, torch.load(path, weights_only=True), (), parts).best_top1 == expected


def test_by_default_all_epochs_are_kept_and_the_two_newest_amid_them(cfg: CfgNode, parts: dict[str, Part]) -> None:
    save_best(cfg, parts["model"], Progress(1))
    for epoch, iteration in ((0, 2), (0, 4), (1, 0), (1, 2), (1, 4), (1, 6), (2, 0)):
        progress = Progress(epoch, iteration)
        save(cfg, parts, progress)
        remove_superseded(cfg, progress, finished=False)
        if (epoch, iteration) == (1, 0):
            assert names(cfg) == ["best", "checkpoint_epoch_00000_iteration_00000004", "checkpoint_epoch_00001"]
    assert names(cfg) == [
        "best",
        "checkpoint_epoch_00001",
        "checkpoint_epoch_00001_iteration_00000006",
        "checkpoint_epoch_00002",
    ]
    remove_superseded(cfg, progress, finished=True)
    assert names(cfg) == ["best", "checkpoint_epoch_00001", "checkpoint_epoch_00002"]


def test_of_epochs_the_newest_are_kept_and_what_lies_ahead_is_left_alone(cfg: CfgNode, parts: dict[str, Part]) -> None:
    cfg.TRAIN.KEEP_CHECKPOINTS = 2
    save_best(cfg, parts["model"], Progress(1))
    damaged = save(cfg, parts, Progress(9))
    damaged.write_bytes(b"PK")
    for epoch in (1, 2, 3, 4):
        save(cfg, parts, Progress(epoch))
        remove_superseded(cfg, Progress(epoch), finished=False)
    assert names(cfg) == ["best", "checkpoint_epoch_00003", "checkpoint_epoch_00004", "checkpoint_epoch_00009"]
    assert newest_checkpoint(cfg)[0].stem == "checkpoint_epoch_00004"
