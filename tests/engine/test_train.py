"""The training loop on clips made in memory."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
import yaml
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from timesformer.config import get_cfg
from timesformer.datasets.clips import PADDING_KEY
from timesformer.datasets.loader import EpochBatchSampler, collate
from timesformer.datasets.records import Records
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.engine.checkpoint import Progress
from timesformer.engine.evaluate import clip_differences, evaluate
from timesformer.engine.mixup import ClipMixup
from timesformer.engine.results import Evaluation
from timesformer.engine.trainer import Run, is_due, train_epoch
from timesformer.engine.unreadable import UnreadableClips
from timesformer.engine.update import Update
from timesformer.errors import UserError
from timesformer.models import build_model
from timesformer.models.parts import freeze
from timesformer.runtime.device import choose_device
from timesformer.runtime.logging import MetricsWriter

pytestmark = pytest.mark.numerical


class Clips(Dataset[dict[str, Any]]):
    """`num` random clips of 3 classes; those in `broken` cannot be read."""

    split, class_names, num_views = "train", ("a", "b", "c"), 1

    def __init__(self, num: int, broken: tuple[int, ...] = ()) -> None:
        generator = torch.Generator().manual_seed(0)
        self.clips = torch.randint(0, 256, (num, 3, 2, 16, 16), dtype=torch.uint8, generator=generator)
        self.records = Records((f"clip{n}" for n in range(num)), (n % 3 for n in range(num)))
        self.broken = broken

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        _, index, _ = key
        errors = {index: f"/{index}: broken"} if index in self.broken else {}
        label, readable = int(self.records.labels[index]), self.split == "train" or not errors
        item = {"clip": self.clips[index], "label": label, "video": index, "view": 0}
        return item | {"readable": readable, "errors": errors}


class Recorder:
    """Keeps the figures that a run writes, the last by kind."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, float]] = {}

    def write(self, kind: str, epoch: float, figures: dict[str, float]) -> None:
        self.figures[kind] = figures


def tensor_of(clips: Clips, cfg: CfgNode) -> torch.Tensor:
    return normalize_clips(clips.clips, cfg, choose_device(cfg))


def loader_of(clips: Clips, batch_size: int) -> DataLoader:
    return DataLoader(clips, batch_sampler=EpochBatchSampler(len(clips), batch_size, 0, False), collate_fn=collate)


def new_model(cfg: CfgNode, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The same model each time, which computes in this type."""
    torch.manual_seed(0)
    model = build_model(cfg).to(choose_device(cfg), dtype)
    model.register_forward_pre_hook(lambda _, clips: (clips[0].to(dtype),))
    return model


def assert_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Weights of float64 models whose few steps differ by the order of sums; the loss itself is a float32."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


def one_epoch(
    cfg: CfgNode,
    model: nn.Module,
    clips: Clips,
    batch_size: int,
    metrics: MetricsWriter | Recorder,
    epoch: int = 0,
    mixup: ClipMixup | None = None,
) -> None:
    update, loader = Update(cfg, model), loader_of(clips, batch_size)
    unreadable = UnreadableClips(cfg, "train", clips.records)
    train_epoch(Run(cfg, model, update, loader, metrics, unreadable, mixup, Progress(epoch)))


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.NUM_GPUS, cfg.TENSORBOARD.ENABLE = str(tmp_path), 0, False
    cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.NUM_FRAMES, cfg.MODEL.NUM_CLASSES = 16, 2, 3
    cfg.TIMESFORMER.update(
        CfgNode(
            {"EMBED_DIM": 16, "DEPTH": 2, "NUM_HEADS": 2, "PATCH_SIZE": 8, "DROP_PATH_RATE": 0.0, "INIT": "scratch"}
        )
    )
    cfg.SOLVER.BASE_LR, cfg.SOLVER.LR_POLICY, cfg.SOLVER.MAX_EPOCH = 0.1, "cosine", 1
    return cfg


def weights_after_an_epoch(
    cfg: CfgNode, clips: Clips, batch_size: int, global_batch_size: int, dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    cfg.TRAIN.BATCH_SIZE, cfg.GLOBAL_BATCH_SIZE = batch_size, global_batch_size
    cfg.SOLVER.LR_POLICY, cfg.SOLVER.STEPS, cfg.SOLVER.LRS = "steps_with_relative_lrs", [0], [1]
    model = new_model(cfg, dtype)
    metrics = MetricsWriter(cfg, 0, 1, 0)
    one_epoch(cfg, model, clips, batch_size, metrics)
    return model.state_dict()


def test_accumulated_batches_equal_one_large_batch_also_where_the_last_is_smaller(cfg: CfgNode) -> None:
    clips = Clips(11)  # steps of 4, 4 and 3 clips; in batches of 2, the last of 1
    at_once = weights_after_an_epoch(cfg, clips, 4, 4)
    in_parts = weights_after_an_epoch(cfg, clips, 2, 4)
    assert_same_weights(in_parts, at_once)
    one_by_one = weights_after_an_epoch(cfg, clips, 1, 1)
    assert not torch.allclose(one_by_one["model.head.weight"], at_once["model.head.weight"], atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_one_gpu_ends_an_epoch_with_the_weights_of_the_cpu(cfg: CfgNode) -> None:
    clips = Clips(8)
    on_cpu = weights_after_an_epoch(cfg, clips, 4, 4, torch.float32)
    cfg.NUM_GPUS = 1
    for name, value in weights_after_an_epoch(cfg, clips, 4, 4, torch.float32).items():
        torch.testing.assert_close(value.cpu(), on_cpu[name], rtol=1e-3, atol=1e-4, msg=name)


class Reads(TorchDispatchMode):
    """Counts the numbers that are read from tensors; on a GPU, whoever reads waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_step_reads_nothing_from_the_device_until_it_is_time_to_log(cfg: CfgNode) -> None:
    cfg.SOLVER.CLIP_GRAD_L2NORM, cfg.EMA.ENABLED, cfg.GLOBAL_BATCH_SIZE, cfg.TRAIN.BATCH_SIZE = 1.0, True, 1, 1

    def reads(batches: int, log_period: int) -> int:
        cfg.LOG_PERIOD = log_period
        with Reads() as counted:
            one_epoch(cfg, new_model(cfg), Clips(batches), 1, Recorder())
        return counted.number

    # The one number of a step is how many of its clips count, which the loading processes say.
    assert reads(12, 1000) - reads(4, 1000) == 8
    assert reads(12, 1) > reads(12, 1000)


def test_gradient_clipping_bounds_the_step(cfg: CfgNode) -> None:
    cfg.SOLVER.MOMENTUM, cfg.SOLVER.NESTEROV, cfg.SOLVER.WEIGHT_DECAY = 0.0, False, 0.0
    torch.manual_seed(0)
    before = build_model(cfg).state_dict()
    cfg.SOLVER.CLIP_GRAD_L2NORM = 0.01
    after = weights_after_an_epoch(cfg, Clips(4), 4, 4)
    moved = torch.cat([(after[name] - before[name]).flatten() for name in after]).norm().item()
    assert moved == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_label_smoothing_is_in_the_training_loss_and_not_in_that_of_evaluation(cfg: CfgNode) -> None:
    cfg.SOLVER.BASE_LR = 1e-12  # so that the model stays as it is
    losses = []
    for smoothing in (0.0, 0.5):
        cfg.SOLVER.LABEL_SMOOTHING = smoothing
        torch.manual_seed(0)
        model = build_model(cfg)
        metrics = Recorder()
        one_epoch(cfg, model, Clips(4), 4, metrics)
        losses.append((metrics.figures["train_epoch"]["loss"], evaluate(model, loader_of(Clips(4), 4), cfg, "").loss))
    (plain, plain_evaluated), (smooth, smooth_evaluated) = losses
    with torch.no_grad():
        log_probabilities = model(tensor_of(Clips(4), cfg)).log_softmax(dim=1)
    assert plain == pytest.approx(plain_evaluated, abs=1e-5)
    assert smooth_evaluated == pytest.approx(plain_evaluated, abs=1e-5)
    assert smooth == pytest.approx(0.5 * plain - 0.5 * log_probabilities.mean().item(), abs=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_mixed_clips_are_scored_against_mixed_labels_also_in_an_odd_last_batch(cfg: CfgNode) -> None:
    cfg.SOLVER.BASE_LR = 1e-12  # so that the model stays as it is
    cfg.SOLVER.LABEL_SMOOTHING, cfg.TRAIN.BATCH_SIZE = 0.2, 4
    cfg.MIXUP.MODE, epoch = "elem", 3
    torch.manual_seed(0)
    model, mixup, metrics, clips = build_model(cfg), ClipMixup(cfg), Recorder(), Clips(7)
    one_epoch(cfg, model, clips, 4, metrics, epoch, mixup)
    losses, right = 0.0, 0
    with torch.no_grad():
        for iteration, numbers in enumerate((torch.arange(4), torch.arange(4, 7))):
            clip, target = mixup(tensor_of(clips, cfg)[numbers], numbers % 3, epoch, iteration)
            scores = model(clip)
            losses -= (target * scores.log_softmax(dim=1)).sum().item()
            right += (scores.argmax(dim=1) == target.argmax(dim=1)).sum().item()
    assert metrics.figures["train_epoch"]["loss"] == pytest.approx(losses / 7, abs=1e-5)
    assert metrics.figures["train_epoch"]["top1"] == pytest.approx(100 * right / 7, abs=1e-3)


def test_what_is_frozen_stays_as_it_is_and_the_rest_learns(cfg: CfgNode) -> None:
    torch.manual_seed(0)
    model = build_model(cfg)
    freeze(model, "backbone")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cfg.SOLVER.WEIGHT_DECAY = 0.1
    one_epoch(cfg, model, Clips(4), 2, Recorder())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"model.head.weight", "model.head.bias"}


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(cfg: CfgNode) -> None:
    cfg.SOLVER.BASE_LR = 1e20
    with pytest.raises(UserError, match=r"loss became (nan|inf).*Lower SOLVER.BASE_LR"):
        weights_after_an_epoch(cfg, Clips(12), 2, 2)


def test_unreadable_clips_are_misses_in_evaluation(cfg: CfgNode) -> None:
    clips = Clips(6, broken=(2,))
    clips.split = "test"
    model = build_model(cfg)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.head.bias[2] = 1.0  # always says class 2: right for clips 2 and 5
    evaluation = evaluate(model, loader_of(clips, 4), cfg, "test")
    assert evaluation.topk(1, 5) == pytest.approx([100 / 6, 500 / 6])
    assert evaluation.unreadable == {"clip2": "/2: broken"}
    assert evaluation.by_class() == [(2, 0, 0), (2, 0, 0), (2, 1, 5)]
    assert evaluation.mean_class_top1() == pytest.approx(100 / 6)


def test_each_class_counts_alike_in_the_mean_over_classes() -> None:
    labels, predicted = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 0])
    scores = functional.one_hot(predicted, 3).float()
    evaluation = Evaluation([*"abcdef"], labels, scores, scores, {"f": "broken"}, 0.0, 1, 0.0)
    assert evaluation.by_class() == [(4, 3, 3), (2, 1, 2), (0, 0, 0)]
    assert evaluation.mean_class_top1() == pytest.approx(100 * (3 / 4 + 1 / 2) / 2)


def test_a_clip_that_stands_for_none_changes_nothing(cfg: CfgNode) -> None:
    class Filled(Clips):
        def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
            if key == PADDING_KEY:
                return {**super().__getitem__((0, 0, 0)), "video": -1, "readable": False}
            return super().__getitem__(key)

    class FilledBatches(EpochBatchSampler):
        def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
            return ([*batch, PADDING_KEY] for batch in super().__iter__())

    plain, filled = Recorder(), Recorder()
    alone, beside = (new_model(cfg, torch.float64) for _ in range(2))
    one_epoch(cfg, alone, Clips(5), 4, plain)
    train_epoch(
        Run(
            cfg,
            beside,
            Update(cfg, beside),
            DataLoader(Filled(5), batch_sampler=FilledBatches(5, 4, 0, False), collate_fn=collate),
            filled,
            UnreadableClips(cfg, "train", Filled(5).records),
        )
    )
    assert_same_weights(beside.state_dict(), alone.state_dict())
    assert filled.figures["train_epoch"] == pytest.approx(plain.figures["train_epoch"], rel=1e-6)


def test_clips_of_rare_classes_weigh_more_in_the_training_loss_also_when_accumulated(cfg: CfgNode) -> None:
    clips = Clips(6)
    clips.records = Records(clips.records.names, labels := [0, 0, 0, 0, 1, 2])
    plain = weights_after_an_epoch(cfg, clips, 6, 6)
    cfg.DATA.BALANCE = "class_weights"
    at_once, in_parts = (weights_after_an_epoch(cfg, clips, size, 6) for size in (6, 2))
    assert_same_weights(in_parts, at_once)
    assert not torch.allclose(plain["model.head.weight"], at_once["model.head.weight"], atol=1e-3)

    cfg.SOLVER.BASE_LR = 1e-12  # so that the model stays as it is
    model, metrics = new_model(cfg), Recorder()
    one_epoch(cfg, model, clips, 6, metrics)
    with torch.no_grad():
        losses = functional.cross_entropy(model(tensor_of(clips, cfg)), torch.tensor(labels), reduction="none")
    of_each_class = torch.stack([losses[:4].mean(), losses[4], losses[5]])
    assert metrics.figures["train_epoch"]["loss"] == pytest.approx(of_each_class.mean().item(), abs=1e-5)


def test_clips_unlike_those_of_the_checkpoint_are_told(cfg: CfgNode) -> None:
    content = {"cfg": cfg.dump()}
    assert clip_differences(cfg, content) == []
    cfg.DATA.SAMPLING_RATE = 3
    assert clip_differences(cfg, content) == ["DATA.SAMPLING_RATE was 8, is 3"]
    assert clip_differences(cfg, {"cfg": "TRAIN:\n  ENABLE: true\n"}) == []


def test_a_checkpoint_from_before_the_default_sampler_changed_is_noticed(cfg: CfgNode) -> None:
    cfg.DATA.SAMPLER, cfg.TEST.DATASET = "", "kinetics"
    saved = yaml.safe_load(cfg.dump())
    assert clip_differences(cfg, {"cfg": yaml.safe_dump(saved)}) == []
    del saved["DATA"]["SAMPLER_WINDOW"], saved["DATA"]["TARGET_FPS"]
    (change,) = clip_differences(cfg, {"cfg": yaml.safe_dump(saved)})
    assert "uniform" in change
    assert "dense" in change
    cfg.DATA.SAMPLER = "uniform"
    assert clip_differences(cfg, {"cfg": yaml.safe_dump(saved)}) == []


def test_evaluation_leaves_the_model_in_its_mode(cfg: CfgNode) -> None:
    model = build_model(cfg).train()
    evaluate(model, loader_of(Clips(3), 2), cfg, "validation")
    assert model.training


@pytest.mark.parametrize(("epoch", "due"), [(1, False), (2, True), (3, False), (5, True)])
def test_periodic_work_is_due_every_period_and_at_the_end(epoch: int, due: bool) -> None:
    assert is_due(epoch, period=2, last=5) is due
