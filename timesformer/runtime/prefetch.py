"""Copying batches to the GPU while it computes."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch


def on_device(batches: Iterable[dict[str, Any]], device: torch.device) -> Iterator[dict[str, Any]]:
    """A loader's batches with `clip` and `label` on the device, and there `present`, bool [batch].

    The latter is False where a clip stands for none (see `construct_loader`). All else stays where it is.

    To a GPU they are copied on a stream of their own. As the loop that takes them only puts work into the GPU's queue,
    and does not wait for its results, a batch is copied while the GPU still computes the one before. That needs batches
    in page-locked memory (DATA_LOADER.PIN_MEMORY).
    """
    copying = torch.cuda.Stream(device) if device.type == "cuda" else None
    for batch in batches:
        moving = {"clip": batch["clip"], "label": batch["label"], "present": batch["video"]}
        if copying:
            computing = torch.cuda.current_stream(device)
            with torch.cuda.stream(copying):
                moving = {name: tensor.to(device, non_blocking=True) for name, tensor in moving.items()}
            computing.wait_stream(copying)
            for tensor in moving.values():
                tensor.record_stream(computing)  # or its memory could be given away while it is still in use
        yield {**batch, **moving, "present": moving["present"] >= 0}
