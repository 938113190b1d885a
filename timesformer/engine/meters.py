"""Meters: averages and throughput."""

import time

from torch import Tensor

from timesformer.runtime.distributed import all_reduce_sum
from timesformer.runtime.ranks import dist_info, is_main_process

LONGEST_SILENCE = 60.0
"""Seconds after which a single process reports, although LOG_PERIOD steps are not done."""


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

    def is_due(self, period: int) -> bool:
        """Whether to report: every `period` steps, at the end and, in a single process, after LONGEST_SILENCE."""
        is_late = dist_info().world_size == 1 and time.perf_counter() - self._since > LONGEST_SILENCE
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
