"""A run stops when its loss or weights are not finite, names the clips, and saves nothing after it."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.config import get_cfg
from timesformer.engine import trainer as train
from timesformer.engine.finite import LossWatch, refuse_broken_weights
from timesformer.errors import UserError
from timesformer.runtime.launch import launch, run_and_report
from timesformer.runtime.ranks import dist_info


def test_the_first_batch_with_a_loss_that_is_not_finite_is_told_with_its_videos() -> None:
    watch = LossWatch(["a", "b", "c", "d", "e", "f"])
    watch.check()
    watch.add(0, 0, torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
    watch.check()
    watch.add(0, 1, torch.tensor([1.0]), torch.tensor([2]))
    watch.add(2, 4, torch.tensor([1.0, math.nan, 0.0]), torch.tensor([3, 4, -1]))
    watch.add(2, 5, torch.tensor([math.inf]), torch.tensor([5]))
    with pytest.raises(UserError, match="became nan in epoch 3, iteration 5, over the clips d, e; the checkpoints"):
        watch.check()
    watch.check()  # told once


@pytest.mark.usefixtures("unhurried")
def test_the_clips_that_broke_the_weights_of_all_processes_are_told_and_not_those_that_came_after(
    ranks: Callable[..., list],
) -> None:
    cfg = get_cfg()
    cfg.NUM_GPUS, cfg.TRAIN.ENABLE, cfg.TEST.ENABLE = 0, False, False

    def main(_: CfgNode) -> None:
        watch, rank = LossWatch(["a", "b", "c", "d"]), dist_info().rank
        watch.add(0, 7, torch.tensor([math.inf if rank == 1 else 1.0]), torch.tensor([rank]))
        watch.add(0, 8, torch.tensor([math.nan]), torch.tensor([2 + rank]))
        watch.check()

    for ended in ranks(2, lambda rank: run_and_report(lambda: launch(cfg, main))):
        assert ended.code == 2
        assert not ended.err or "became inf in epoch 1, iteration 8, over the clips b; the" in ended.err


def test_weights_that_are_not_finite_are_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    refuse_broken_weights(model, "then")
    model[1].running_mean[0] = math.inf
    with pytest.raises(UserError, match=r"weights became NaN or infinite by then: 1\.running_mean; "):
        refuse_broken_weights(model, "then")


@pytest.mark.parametrize("broken", ["loss", "gradient"])
@pytest.mark.parametrize("batch", [2, 4])
def test_no_checkpoint_is_written_after_a_number_that_is_not_finite_however_often_they_are(
    run_net: Callable, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, batch: int
) -> None:
    calls = []

    def loss(scores: Tensor, labels: Tensor, reduction: str, label_smoothing: float) -> Tensor:
        calls.append(len(labels))
        losses = nn.functional.cross_entropy(scores, labels, reduction=reduction, label_smoothing=label_smoothing)
        if len(calls) == 6 + batch:  # of the second epoch, in one of its two steps of three batches
            if broken == "loss":
                return losses * math.nan
            scores.register_hook(lambda gradient: gradient * math.inf)
        return losses

    monkeypatch.setitem(train.LOSSES, "cross_entropy", loss)
    options = ["GLOBAL_BATCH_SIZE", "6", "LOG_PERIOD", "100", "TRAIN.CHECKPOINT_MINUTES", "0.00001"]
    stopped = run_net(*tiny_command, *options, "OUTPUT_DIR", str(tmp_path))
    assert stopped.code == 2
    if broken == "loss":
        assert f"the training loss became nan in epoch 2, iteration {batch}, over the clips " in stopped.err
    else:
        then = "epoch 1 and 3 iterations" if batch == 2 else "epoch 2"
        assert f"weights became NaN or infinite by the end of {then}: " in stopped.err
    found = sorted(path.name for path in (tmp_path / "checkpoints").glob("checkpoint*"))
    amid = "checkpoint_epoch_00000_iteration_00000003.pyth", "checkpoint_epoch_00001_iteration_00000003.pyth"
    assert found == sorted(["checkpoint_epoch_00001.pyth", amid[0] if batch == 2 else amid[1]])
    assert (tmp_path / "metrics.jsonl").read_text().count('"train_epoch"') == 1  # and nothing is told of that epoch
