"""Batches over concurrent requests."""

from threading import Event

import pytest
import torch
from torch import Tensor

from timesformer.serving.batching import Batcher


def test_waiting_requests_are_computed_together() -> None:
    first, go_on = Event(), Event()
    sizes: list[int] = []

    def compute(clips: Tensor) -> Tensor:
        first.set()
        go_on.wait()
        return clips * 2

    batcher = Batcher(compute, 4, sizes.append)
    requests = [torch.arange(n, n + length) for n, length in ((0, 1), (10, 2), (20, 1), (30, 3), (40, 6))]
    futures = [batcher.submit(requests[0])]
    first.wait()  # the others wait while the first one is computed
    futures += [batcher.submit(clips) for clips in requests[1:]]
    assert batcher.submit(torch.arange(2)).cancel()
    assert batcher.waiting == 15
    go_on.set()
    for clips, future in zip(requests, futures, strict=True):
        assert torch.equal(future.result(), clips * 2)
    batcher.close()
    assert (sizes, batcher.waiting) == ([1, 4, 2, 4, 2], 0)


def test_an_error_reaches_its_requests_only() -> None:
    def compute(clips: Tensor) -> Tensor:
        if clips[0] < 0:
            raise RuntimeError("out of memory")
        return clips

    batcher = Batcher(compute, 1, lambda _: None)
    with pytest.raises(RuntimeError, match="memory"):
        batcher.submit(torch.tensor([-1])).result()
    assert batcher.submit(torch.tensor([5])).result() == 5
    batcher.close()
