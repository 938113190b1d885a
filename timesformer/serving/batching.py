"""Batches over concurrent requests: while the model computes, the clips of waiting requests are collected."""

from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Lock, Thread

import torch
from torch import Tensor


class Batcher:
    """A thread that computes the clips of all waiting requests together, in order, `batch_size` clips at a time.

    `compute` gets uint8 clips [batch, 3, T, H, W] and returns logits [batch, classes]. `report` gets the size of each
    batch.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], batch_size: int, report: Callable[[int], object]) -> None:
        self._compute, self._batch_size, self._report = compute, batch_size, report
        self._queue: SimpleQueue[tuple[Tensor, Future[Tensor]] | None] = SimpleQueue()
        self._lock, self._waiting = Lock(), 0
        self._thread = Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of clips that are not computed yet."""
        return self._waiting

    def submit(self, clips: Tensor) -> "Future[Tensor]":
        """Returns the future logits, float32 [n, classes], of clips, uint8 [n, 3, T, H, W]."""
        with self._lock:
            self._waiting += len(clips)
        future: Future[Tensor] = Future()
        self._queue.put((clips, future))
        return future

    def close(self) -> None:
        """Computes what is waiting, and ends the thread; nothing may be submitted afterwards."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            requests, is_last = [item], False
            while sum(len(clips) for clips, _ in requests) < self._batch_size:
                try:
                    following = self._queue.get_nowait()
                except Empty:
                    break
                if following is None:
                    is_last = True
                    break
                requests.append(following)
            self._answer([request for request in requests if request[1].set_running_or_notify_cancel()])
            with self._lock:
                self._waiting -= sum(len(clips) for clips, _ in requests)
            if is_last:
                return

    def _answer(self, requests: list[tuple[Tensor, "Future[Tensor]"]]) -> None:
        if not requests:  # all were cancelled
            return
        sizes = [len(clips) for clips, _ in requests]
        try:
            batches = torch.cat([clips for clips, _ in requests]).split(self._batch_size)
            logits = []
            for batch in batches:
                logits.append(self._compute(batch))
                self._report(len(batch))
        except Exception as error:  # for the requests, not for the thread
            for _, future in requests:
                future.set_exception(error)
        else:
            for (_, future), part in zip(requests, torch.cat(logits).split(sizes), strict=True):
                future.set_result(part)
