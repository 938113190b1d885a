"""A forward pass and a training step of a model, and the seconds they take."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn


def forward_of(model: nn.Module, clip: Tensor, mixed_precision: str = "off") -> Callable[[], None]:
    """A forward pass in evaluation mode."""

    def run() -> None:
        model.eval()
        with torch.inference_mode(), lowered(clip, mixed_precision):
            logits_of(model, clip)

    return run


def training_step(model: nn.Module, clip: Tensor, mixed_precision: str = "off") -> Callable[[], None]:
    """A step of SGD with momentum: forward, cross entropy, backward, update."""
    labels = torch.zeros(len(clip), dtype=torch.long, device=clip.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def step() -> None:
        model.train()
        with lowered(clip, mixed_precision):
            logits = logits_of(model, clip)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def lowered(clip: Tensor, mixed_precision: str) -> torch.autocast:
    """The context for forward passes under "bf16" or "off"."""
    return torch.autocast(clip.device.type, torch.bfloat16, enabled=mixed_precision == "bf16")


def logits_of(model: nn.Module, clip: Tensor) -> Tensor:
    """Logits for clips [batch, channels, frames, height, width], of Hugging Face's models too."""
    return model(clip.transpose(1, 2)).logits if hasattr(model, "config") else model(clip)


def seconds_of(run: Callable[[], None], device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds until `run` is done, on the GPU too; with time.process_time as the clock, of the processor's time."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start
