"""Scores of videos over their views."""

from typing import Literal

import torch
from torch import Tensor

from timesformer.runtime.distributed import all_reduce


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
