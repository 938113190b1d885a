"""Meters: scores of videos over their views, averages, and throughput."""

import time
from typing import Literal

import torch
from torch import Tensor

from timesformer.runtime.distributed import all_reduce, all_reduce_sum
from timesformer.runtime.ranks import dist_info, is_main_process


class ViewEnsemble:
    """Aggregates the scores of every video over its views (clips x crops), which may come in any order."""

    def __init__(
        self, num_videos: int, num_views: int, num_classes: int, method: Literal["sum", "max"] = "sum"
    ) -> None:
        self.method = method
        # Double precision, so that the sum does not depend on the order of the views and the number of processes.
        start = 0.0 if method == "sum" else -torch.inf
        self.scores = torch.full((num_videos, num_classes), start, dtype=torch.float64)
        self._seen = torch.zeros(num_videos, num_views, dtype=torch.bool)

    def update(self, scores: Tensor, videos: Tensor, views: Tensor) -> None:
        """Adds the scores [batch, classes] of views `views` [batch] of videos `videos` [batch]; each must be new."""
        if self._seen[videos, views].any() or len(set(zip(videos.tolist(), views.tolist(), strict=True))) < len(videos):
            raise ValueError("a view was counted twice; add each view of each video once")
        self._seen[videos, views] = True
        scores = scores.detach().cpu().double()
        if self.method == "sum":
            self.scores.index_add_(0, videos, scores)
        else:
            self.scores.scatter_reduce_(0, videos.unsqueeze(1).expand_as(scores), scores, "amax")

    def complete(self) -> Tensor:
        """Scores [videos, classes], float, over the views of all processes, which must call this together."""
        seen = self._seen.int()
        all_reduce(seen, op="sum")
        all_reduce(self.scores, op=self.method)
        if not (seen == 1).all():
            missing, repeated = int((seen == 0).sum()), int((seen > 1).sum())
            raise ValueError(f"of {seen.numel()} views, {missing} are missing and {repeated} are in several processes")
        return self.scores.float()


class Average:
    """Running mean over samples, summed on the device in double precision, and so in any order."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def add(self, total: Tensor | float, count: int) -> None:
        """Adds the sum of `count` samples."""
        self.total = self.total + (total.double() if isinstance(total, Tensor) else total)
        self.count += count

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def value(self) -> float:
        """The mean over all processes, which must call this together; syncs with the device."""
        total, count = all_reduce_sum(self.total, self.count)
        return total / max(count, 1)


class TrainingMetrics:
    """Loss and fraction of correct predictions of the current epoch, and loss since the last report."""

    def __init__(self) -> None:
        self.loss, self.correct, self.recent_loss = Average(), Average(), Average()
        self._by_name = {"loss": self.loss, "right": self.correct, "recent_loss": self.recent_loss}  # in checkpoints

    def add(self, loss: Tensor, correct: Tensor, count: int) -> None:
        """Adds the summed loss and the correct predictions of `count` clips, without syncing with the device."""
        self.loss.add(loss, count)
        self.recent_loss.add(loss, count)
        self.correct.add(correct, count)

    def reset(self) -> None:
        for average in self._by_name.values():
            average.reset()

    def state_dict(self) -> dict[str, list[float]]:
        """Total and count by name, over all processes, which must call this together; syncs with the device."""
        return {name: all_reduce_sum(average.total, average.count) for name, average in self._by_name.items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Restores a `state_dict`, in the main process; unknown names are ignored."""
        for name, average in self._by_name.items() if is_main_process() else ():
            average.total, average.count = state.get(name, (0.0, 0))


class Throughput:
    """Clips per second since the last report and remaining time of a loop of `steps`, some of them `done` before."""

    def __init__(self, steps: int, done: int = 0) -> None:
        self.steps, self.done = steps, done
        self.seconds_per_step = 0.0  # as of the last report
        self._clips, self._steps, self._waited, self._since = 0, 0, 0.0, time.perf_counter()

    def step(self, clips: int, waited: float) -> None:
        """Counts a step of `clips` clips, of which `waited` seconds were spent waiting for data."""
        self.done += 1
        self._steps += 1
        self._clips += clips
        self._waited += waited

    def is_due(self, period: int, seconds: float = 60.0) -> bool:
        """Whether to report: every `period` steps, at the end and, in a single process, after `seconds`."""
        is_late = dist_info().world_size == 1 and time.perf_counter() - self._since > seconds
        return self.done % period == 0 or self.done == self.steps or is_late

    def report(self) -> dict[str, float]:
        """`clips_per_second`, `data_share` (of the time, spent waiting for data) and `eta_seconds`; then restarts."""
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        if self._steps:
            self.seconds_per_step = elapsed / self._steps
        metrics = {
            "clips_per_second": self._clips / elapsed,
            "data_share": min(self._waited / elapsed, 1.0),
            "eta_seconds": (self.steps - self.done) * self.seconds_per_step,
        }
        self._clips, self._steps, self._waited, self._since = 0, 0, 0.0, time.perf_counter()
        return metrics
