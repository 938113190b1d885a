"""Copying batches to the GPU while it computes."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

_MOVED = ("clip", "label")


def on_device(batches: Iterable[dict[str, Any]], device: torch.device) -> Iterator[dict[str, Any]]:
    """The batches with their clips and labels on the device, as they are otherwise.

    To a GPU they are copied on a stream of their own. As the loop that takes them only puts work into the GPU's queue,
    and does not wait for its results, a batch is copied while the GPU still computes the one before. That needs batches
    in page-locked memory (DATA_LOADER.PIN_MEMORY). On the CPU nothing is copied.
    """
    if device.type != "cuda":
        yield from batches
        return
    copying = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copying):
            moved = {name: batch[name].to(device, non_blocking=True) for name in _MOVED}
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for tensor in moved.values():
            tensor.record_stream(computing)  # or its memory could be given away while it is still in use
        yield {**batch, **moved}
