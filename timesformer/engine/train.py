"""`train`: the training that a configuration asks for."""

from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.datasets.catalog import Splits
from timesformer.engine.probing.trainer import ProbeTrainer
from timesformer.engine.trainer import Trainer
from timesformer.runtime.trackers import Trackers


def train(cfg: CfgNode, splits: Splits | None = None, trackers: Trackers | None = None) -> Path:
    """Trains as configured (`Trainer`, or `ProbeTrainer` with FEATURES.ENABLED); returns the best checkpoint.

    The best is that with the highest validation top-1. Raises UserError for invalid data or options, a loss that is not
    finite and a dead DataLoader worker, and KeyboardInterrupt if a signal stops the run, which is saved before, unless
    that was a second signal.
    """
    trainer = (ProbeTrainer if cfg.FEATURES.ENABLED else Trainer)(cfg, splits or Splits(cfg), trackers)
    trainer.setup()
    return trainer.fit()
