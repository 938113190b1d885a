"""What a training will do: its iterations, steps and learning rates, computed by the parts of the trainer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn

from timesformer.datasets.catalog import Splits
from timesformer.engine import optim
from timesformer.engine.advice import few_clips_advice
from timesformer.engine.trainer import Trainer
from timesformer.models.parts import head_parameters, layer_numbers, temporal_parameters


@dataclass(frozen=True)
class RateGroup:
    """Trained parameters that always have the same learning rate; `count` is their number."""

    label: str
    count: int
    factor: float  # on the learning rate of SOLVER.LR_POLICY
    cfg: CfgNode  # with the SOLVER.BASE_LR of the group
    optimizer: torch.optim.Optimizer
    number: int  # of the optimizer's parameter group


class TrainingPlan:
    """The course of a training, without weights and on the CPU. Raises UserError as the training would.

    Attributes:
        loader: the training loader.
        batches: iterations of an epoch; in each, the rate is set for one batch of TRAIN.BATCH_SIZE clips per node, or
            with FEATURES.ENABLED for one step.
        steps: optimizer steps of an epoch.
        iterations: iterations of the training.
        warmup: those of them within SOLVER.WARMUP_EPOCHS, or of onecycle before the highest rate.
        groups: the parameters by learning rate; with FEATURES.ENABLED those of each head that is tried.
        advice: a warning if the clips are few for the model; else "".
    """

    def __init__(self, cfg: CfgNode, splits: Splits) -> None:
        built = cfg.clone()
        built.NUM_GPUS, built.TRAIN.MIXED_PRECISION, built.EMA.ENABLED = 0, "off", False
        built.MODEL.PRETRAINED, built.TIMESFORMER.PRETRAINED_MODEL = False, ""
        trainer = Trainer(built, splits)
        trainer.setup_data()
        trainer.setup_model(None)
        self.loader = trainer.train_loader
        sampler = self.loader.batch_sampler
        self.clips_per_epoch, accumulated = sampler.num_items, optim.batches_per_step(cfg)
        batch = optim.clips_per_step(cfg) if cfg.FEATURES.ENABLED else sampler.batch_size
        self.batches = -(-sampler.num_items // batch)
        self.steps = self.batches if cfg.FEATURES.ENABLED else -(-self.batches // accumulated)
        self.iterations = self.batches * cfg.SOLVER.MAX_EPOCH
        if cfg.FEATURES.ENABLED:
            self.groups = []
            for rate in cfg.FEATURES.LEARNING_RATES or [cfg.SOLVER.BASE_LR]:
                chosen = built.clone()
                chosen.SOLVER.BASE_LR = rate
                optimizer = optim.construct_optimizer(trainer.model, chosen)
                self.groups += _groups(chosen, trainer.model, optimizer, f"head with SOLVER.BASE_LR {rate:g}")
        else:
            trainer.setup_optimizer()
            self.groups = _groups(built, trainer.model, trainer.optimizer, "all trained parameters")
        numbers = np.arange(self.iterations)
        before = numbers // self.batches + numbers % self.batches / self.batches < cfg.SOLVER.WARMUP_EPOCHS
        self.warmup = int(before.sum())
        if cfg.SOLVER.LR_POLICY == "onecycle":
            self.warmup = int(np.argmax([self._rate(self.groups[0].cfg, number) for number in range(self.iterations)]))
        self.advice = few_clips_advice(cfg, trainer.model, len(self.loader.dataset.records))

    def rates(self, iterations: Sequence[int]) -> np.ndarray:
        """The learning rates [groups, iterations], float64, in these iterations, counted from 0."""
        rates = np.empty((len(self.groups), len(iterations)))
        for row, group in zip(rates, self.groups, strict=True):
            for column, iteration in enumerate(iterations):
                optim.set_learning_rate(group.optimizer, self._rate(group.cfg, iteration))
                row[column] = group.optimizer.param_groups[group.number]["lr"]
        return rates

    def _rate(self, cfg: CfgNode, iteration: int) -> float:
        """The learning rate of the policy, before the factors of the groups."""
        epoch, index = divmod(iteration, self.batches)
        return optim.learning_rate_of_batch(cfg, epoch, index, self.batches)


def _groups(cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer, everything: str) -> list[RateGroup]:
    """The parameter groups with different factors on the learning rate, by falling factor."""
    names, by_factor = {id(parameter): name for name, parameter in model.named_parameters()}, {}
    for number, group in enumerate(optimizer.param_groups):
        by_factor.setdefault(group.get("lr_scale", 1.0), []).append((number, group["params"]))
    found = []
    for factor, members in sorted(by_factor.items(), reverse=True):
        parameters = [parameter for _, some in members for parameter in some]
        label = _describe(cfg, model, {names[id(parameter)] for parameter in parameters})
        count = sum(parameter.numel() for parameter in parameters)
        found.append(
            RateGroup(label if len(by_factor) > 1 else everything, count, factor, cfg, optimizer, members[0][0])
        )
    return found


def _describe(cfg: CfgNode, model: nn.Module, names: set[str]) -> str:
    """The parts of the model that parameters of one learning rate belong to."""
    heads, temporal = head_parameters(model), temporal_parameters(model)
    kinds = {"head" if name in heads else "temporal" if name in temporal else "other" for name in names}
    if cfg.SOLVER.LAYER_DECAY == 1:
        if kinds == {"head"}:
            return "head"
        return "temporal layers and embeddings" if kinds == {"temporal"} else "other parameters"
    numbers = layer_numbers(model)
    last, layers = max(numbers.values()), sorted({numbers[name] for name in names})
    label = ", ".join("embeddings" if n == 0 else "head" if n == last else f"block {n}" for n in layers)
    return f"{label} (temporal)" if cfg.SOLVER.TEMPORAL_LR_SCALE != 1 and kinds == {"temporal"} else label
