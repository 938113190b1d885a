"""The scores of every video of a split, and the accuracies that follow from them."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from timesformer.metrics.baselines import Baselines, baselines
from timesformer.metrics.classification import cmc_curve, has_top5


class Counts(NamedTuple):
    """Videos of a class, those predicted correctly, and all that are predicted as this class."""

    videos: int
    correct: int
    predicted: int


def logits_of(scores: Tensor, num_views: int, method: str) -> Tensor:
    """Logits [videos, classes] from scores aggregated over the views: their mean for "sum", the largest for "max"."""
    return scores / (num_views if method == "sum" else 1)


@dataclass
class Evaluation:
    """Scores of every video of a split."""

    names: list[str]  # in the order of the rows of `scores`
    labels: Tensor  # [videos], int64
    scores: Tensor  # [videos, classes], aggregated over the views by DATA.ENSEMBLE_METHOD
    logits: Tensor  # [videos, classes], see `logits_of`
    unreadable: dict[str, str]  # reasons by name of unreadable videos, which count as incorrect
    loss: float  # mean cross entropy of the readable clips
    num_views: int  # of each video
    seconds: float  # duration
    shuffled_scores: Tensor | None = None  # as `scores`, with the frames of each clip shuffled (TEST.MEASURE_ORDER)

    @property
    def num_classes(self) -> int:
        return self.scores.shape[1]

    @property
    def probabilities(self) -> Tensor:
        """[videos, classes], softmax of the logits."""
        return self.logits.softmax(dim=1)

    @property
    def readable(self) -> Tensor:
        """[videos], bool."""
        return torch.tensor([name not in self.unreadable for name in self.names])

    @property
    def correct(self) -> Tensor:
        """[videos], bool; whether the predicted class is the true one, False for unreadable videos."""
        return self.readable & (self.scores.argmax(dim=1) == self.labels)

    def topk(self, *ks: int) -> list[float]:
        """Top-k accuracies in percent of all videos; an unreadable one is incorrect for every k."""
        curve = cmc_curve(self.scores, self.labels, self.readable)
        return [float(curve[min(k, len(curve)) - 1]) for k in ks]

    def by_class(self) -> list[Counts]:
        """Counts of each class; unreadable videos have no prediction."""
        predicted = self.scores.argmax(dim=1)
        labels = (self.labels, self.labels[self.correct], predicted[self.readable])
        counts = torch.stack([values.bincount(minlength=self.num_classes) for values in labels], dim=1)
        return [Counts(*row) for row in counts.tolist()]

    def mean_class_top1(self) -> float:
        """Mean of the top-1 accuracies of the classes that have videos, in percent."""
        accuracies = [counts.correct / counts.videos for counts in self.by_class() if counts.videos]
        return 100.0 * sum(accuracies) / len(accuracies)

    def baselines(self) -> Baselines | None:
        """Chance and the most frequent class, compared with the correct predictions."""
        return baselines([counts.videos for counts in self.by_class()], int(self.correct.sum()))

    def metrics(self) -> dict[str, float]:
        """`loss`, and `top1`, `top5` (see `has_top5`) and `mean_class_top1` in percent."""
        ks = (1, 5) if has_top5(self.num_classes) else (1,)
        accuracies = {f"top{k}": value for k, value in zip(ks, self.topk(*ks), strict=True)}
        return {"loss": self.loss, **accuracies, "mean_class_top1": self.mean_class_top1()}

    def shuffled_metrics(self) -> dict[str, Any] | None:
        """The entry `shuffled` of results.json (docs/results.md), about shuffled frames; None if not measured."""
        if self.shuffled_scores is None:
            return None
        shuffled = replace(self, scores=self.shuffled_scores, shuffled_scores=None)
        first, second = self.correct, shuffled.correct
        same = self.readable & (self.scores.argmax(dim=1) == shuffled.scores.argmax(dim=1))
        metrics = {name: round(value, 4) for name, value in shuffled.metrics().items() if name != "loss"}
        return metrics | {
            "difference": round(100.0 * (first.double() - second.double()).mean().item(), 4),
            "correct_by_class": [counts.correct for counts in shuffled.by_class()],
            "only_original": int((first & ~second).sum()),
            "only_shuffled": int((second & ~first).sum()),
            "same_prediction": int(same.sum()),
        }

    def describe(self) -> str:
        """The accuracies next to chance and the most frequent class, for the log."""
        found, trivial = self.metrics(), self.baselines()
        text = f"top-1 {found['top1']:.2f} %" + (f" ({trivial.describe()})" if trivial else "")
        if "top5" in found:
            text += f", top-5 {found['top5']:.2f} %"
        return f"{text}, mean over classes {found['mean_class_top1']:.2f} %"
