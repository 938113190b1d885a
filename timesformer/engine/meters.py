"""Measuring a run: top-k accuracy, the scores of a video over its views, and the progress of an epoch."""

import time
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from timesformer.runtime.distributed import all_reduce, all_reduce_sum
from timesformer.runtime.ranks import dist_info, is_main_process


def topks_correct(scores: Tensor, labels: Tensor, ks: Sequence[int]) -> list[Tensor]:
    """How many samples have their label among the k highest scores, for each k.

    Args:
        scores: [samples, classes], float.
        labels: [samples], int64, 0 to classes - 1.
        ks: any numbers from 1; one above the number of classes counts every sample.

    Returns:
        One number (float, no dimensions) per k.

    Raises:
        ValueError: if scores and labels differ in number.
    """
    if len(scores) != len(labels):
        raise ValueError(f"{len(scores)} rows of scores for {len(labels)} labels; give one label per row")
    ranked = scores.topk(min(max(ks), scores.shape[1]), dim=1).indices
    hits = ranked == labels.unsqueeze(1)
    return [hits[:, :k].any(dim=1).sum().float() for k in ks]


def topk_accuracies(scores: Tensor, labels: Tensor, ks: Sequence[int]) -> list[float]:
    """Top-k accuracy in percent for each k; see `topks_correct`. Without samples, 0."""
    return [100.0 * correct.item() / max(len(scores), 1) for correct in topks_correct(scores, labels, ks)]


class ViewEnsemble:
    """Gathers the scores of every video over its views, in whatever order the views come.

    Args:
        num_videos: number of videos.
        num_views: views (clips x crops) of each.
        num_classes: scores of a view.
        method: "sum" or "max" over the views.
    """

    def __init__(
        self, num_videos: int, num_views: int, num_classes: int, method: Literal["sum", "max"] = "sum"
    ) -> None:
        self.num_views = num_views
        self.method = method
        # A maximum starts below every score: starting from zero would lift negative logits.
        # In doubled precision the sum of a few single numbers is the same in any order, and so on any number of ranks.
        start = 0.0 if method == "sum" else -torch.inf
        self.scores = torch.full((num_videos, num_classes), start, dtype=torch.float64)
        self._seen = torch.zeros(num_videos, num_views, dtype=torch.bool)

    def update(self, scores: Tensor, videos: Tensor, views: Tensor) -> None:
        """Adds the scores [batch, classes] of views `views` [batch] of videos `videos` [batch].

        Raises:
            ValueError: if a view comes twice.
        """
        if self._seen[videos, views].any() or len(set(zip(videos.tolist(), views.tolist(), strict=True))) < len(videos):
            raise ValueError("a view was counted twice; each view of each video belongs into the result once")
        self._seen[videos, views] = True
        scores = scores.detach().cpu().double()
        if self.method == "sum":
            self.scores.index_add_(0, videos, scores)
        else:
            for video, row in zip(videos.tolist(), scores, strict=True):
                torch.maximum(self.scores[video], row, out=self.scores[video])

    def complete(self) -> Tensor:
        """The scores [videos, classes], float, of the views of all processes, each of which must ask for them.

        Raises:
            ValueError: if a view is missing, with how many, or came in two processes.
        """
        seen = self._seen.int()
        all_reduce(seen, op="sum")
        all_reduce(self.scores, op=self.method)
        if missing := int((seen == 0).sum()):
            raise ValueError(f"{missing} of {seen.numel()} views are missing from the result")
        if doubled := int((seen > 1).sum()):
            raise ValueError(f"{doubled} of {seen.numel()} views were counted in several processes")
        return self.scores.float()


class Average:
    """A running mean of a quantity, weighted by the number of samples, kept on the quantity's device.

    Sums are in double precision, and so do not show how they were divided: among processes, or by an interruption.
    """

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def add(self, total: Tensor | float, count: int) -> None:
        """Adds the sum of `count` samples."""
        self.total = self.total + (total.double() if isinstance(total, Tensor) else total)
        self.count += count

    def clear(self) -> None:
        """Begins anew."""
        self.total, self.count = 0.0, 0

    def value(self) -> float:
        """The mean over the samples of all processes, each of which must ask for it; reads from the device."""
        total, count = all_reduce_sum(self.total, self.count)
        return total / max(count, 1)


class TrainingFigures:
    """Loss and top-1 of an epoch so far, and the loss since the last report.

    Attributes:
        loss: over the clips of the epoch.
        right: share of them whose label was the most likely class.
        recent_loss: over the clips since the last report.
    """

    def __init__(self) -> None:
        self.loss, self.right, self.recent_loss = Average(), Average(), Average()

    def add(self, loss: Tensor, right: Tensor, count: int) -> None:
        """Adds the summed loss of `count` clips, and how many of them were right; nothing waits for the device."""
        self.loss.add(loss, count)
        self.recent_loss.add(loss, count)
        self.right.add(right, count)

    def clear(self) -> None:
        """Begins anew."""
        for mean in vars(self).values():
            mean.clear()

    def state_dict(self) -> dict[str, list[float]]:
        """Total and count by name, over all processes, as plain numbers, which hold every digit; reads from the device.

        Each process must ask for it.
        """
        return {name: [*all_reduce_sum(mean.total, mean.count)] for name, mean in vars(self).items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Resumes from what `state_dict` returned, which rank 0 counts; names of another version are ignored."""
        for name, mean in vars(self).items() if is_main_process() else ():
            mean.total, mean.count = state.get(name, (0.0, 0))


class Pace:
    """Rate and time to go of work counted in steps.

    The rate is that of the steps since the last report, so that a slow start does not spoil it.

    Args:
        steps: how many there are in all.
        done: how many of them were done before.
    """

    def __init__(self, steps: int, done: int = 0) -> None:
        self.steps = steps
        self.done = done
        self._clips = 0
        self._waited = 0.0
        self._seconds_per_step = 0.0
        self._steps = 0
        self._since = time.perf_counter()

    def step(self, clips: int, waited: float) -> None:
        """Counts one step over `clips` clips of which `waited` seconds were spent waiting for data."""
        self.done += 1
        self._steps += 1
        self._clips += clips
        self._waited += waited

    def is_due(self, period: int, seconds: float = 60.0) -> bool:
        """Whether a report is due: every `period` steps, at the end, and when the last one is `seconds` ago.

        Several processes report together, and so by the steps alone, for their clocks differ.
        """
        waited_long = dist_info().world_size == 1 and time.perf_counter() - self._since > seconds
        return self.done % period == 0 or self.done == self.steps or waited_long

    def report(self) -> dict[str, float]:
        """Clips per second, share of the time spent waiting for data, and seconds to go; then starts counting anew."""
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        if self._steps:
            self._seconds_per_step = elapsed / self._steps
        figures = {
            "clips_per_second": self._clips / elapsed,
            "data_share": min(self._waited / elapsed, 1.0),
            "eta_seconds": (self.steps - self.done) * self._seconds_per_step,
        }
        self._clips, self._steps, self._waited, self._since = 0, 0, 0.0, time.perf_counter()
        return figures
