"""Reference results on cached features: k nearest neighbors and logistic regression of scikit-learn."""

import logging
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from torch import nn

from timesformer.datasets.catalog import Splits
from timesformer.engine.probing.data import FeatureDataset
from timesformer.errors import UserError
from timesformer.features.extraction import Features, find_features
from timesformer.runtime.ranks import is_main_process

logger = logging.getLogger(__name__)

MAX_VIEWS = 10_000
"""Training views above which there are no reference results, because they would take long."""
NEIGHBORS = (1, 3, 5, 10, 20)
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of C, the inverse of the regularization strength."""


def reference_results(cfg: CfgNode, model: nn.Module, splits: Splits, test: FeatureDataset) -> list[dict[str, Any]]:
    """Validation and test top-1 in percent of other classifiers; empty if features of training clips are not cached.

    They get the tokens of all steps in order, patch tokens averaged, standardized; all views of the training clips, and
    the mean probability over the views of a test clip. Their parameter has the best validation top-1, then loss.
    Unreadable clips count as incorrect. All processes must call this together; the main process computes.
    """
    try:
        found = {split: splits[split] for split in ("train", "val")}
    except UserError:  # a test needs no training data
        return []
    cached = {split: find_features(cfg, model, split, clips) for split, clips in found.items()}
    if not is_main_process() or any(features is None for features in cached.values()):
        return []
    if len(found["train"].records) * cached["train"].num_views > MAX_VIEWS:
        logger.info("no k-NN and logistic regression: there are more than %d training views", MAX_VIEWS)
        return []
    grid = 0 if cfg.MODEL.HEAD == "linear" else cfg.MODEL.HEAD_GRID**2
    data = {split: _Views(features, found[split].records.labels, grid) for split, features in cached.items()}
    data["test"] = _Views(test.features, test.records.labels, grid)
    rows = _fit(data)
    for row in rows:
        logger.info("reference: {method} ({parameter} {value:g}), test top-1 {top1:.2f} %".format(**row))
    return rows


class _Views:
    """The readable clips of a split with all views: `inputs`, float32 [clips, views, size], and `labels` [clips]."""

    def __init__(self, features: Features, labels: np.ndarray, grid: int) -> None:
        readable = np.setdiff1d(np.arange(len(labels)), [*features.problems])
        views = np.arange(features.num_views)
        rows = features.take(*(part.ravel() for part in np.meshgrid(readable, views, indexing="ij"))).astype(np.float32)
        if grid > 1:  # [rows, steps, tokens, dim]
            classes = rows.shape[2] - grid
            rows = np.concatenate([rows[:, :, :classes], rows[:, :, classes:].mean(axis=2, keepdims=True)], axis=2)
        self.inputs = rows.reshape(len(readable), len(views), -1)
        self.labels, self.num_clips = labels[readable], len(labels)

    def evaluate(self, classifier: Any) -> tuple[float, float]:
        """Top-1 in percent of all clips, and negative mean cross entropy of the readable ones."""
        flat = self.inputs.reshape(-1, self.inputs.shape[-1])
        probabilities = classifier.predict_proba(flat).reshape(*self.inputs.shape[:2], -1).mean(axis=1)
        correct = classifier.classes_[probabilities.argmax(axis=1)] == self.labels
        of_label = (probabilities * (classifier.classes_ == self.labels[:, None])).sum(axis=1)
        return 100 * float(correct.sum()) / self.num_clips, float(np.log(np.maximum(of_label, 1e-12)).mean())


def _fit(data: dict[str, _Views]) -> list[dict[str, Any]]:
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train = data["train"]
    inputs = train.inputs.reshape(-1, train.inputs.shape[-1])
    labels = np.repeat(train.labels, train.inputs.shape[1])
    if len(np.unique(labels)) < 2:
        return []
    grids = {
        ("k-NN", "k"): [(k, KNeighborsClassifier(k)) for k in NEIGHBORS if k <= len(inputs)],
        ("logistic regression", "C"): [(c, LogisticRegression(C=c, max_iter=1000)) for c in PENALTIES],
    }
    rows = []
    for (method, parameter), classifiers in grids.items():
        fitted = [(value, make_pipeline(StandardScaler(), found).fit(inputs, labels)) for value, found in classifiers]
        value, best = max(fitted, key=lambda item: data["val"].evaluate(item[1]))
        val_top1, top1 = (round(data[split].evaluate(best)[0], 4) for split in ("val", "test"))
        rows.append({"method": method, "parameter": parameter, "value": value, "val_top1": val_top1, "top1": top1})
    return rows
