"""What the processes of a run tell each other, and one model in all of them.

Every function here also works in a run of one process, where it does nothing or returns what it was given.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from timesformer.errors import UserError
from timesformer.runtime import ranks
from timesformer.runtime.ranks import DistInfo, dist_info, is_main_process

Item = TypeVar("Item")


def join(cfg: CfgNode, place: DistInfo, meeting: str) -> None:
    """Meets the other processes of the run; each of them calls this once.

    CPU tensors are exchanged by gloo, those of GPUs by DIST_BACKEND.

    Args:
        cfg: the configuration.
        place: of this process.
        meeting: URL known to all: tcp://host:port (the lead's), file:///path (on a disk that all see), or env://.

    Raises:
        UserError: if not all have come within DIST_TIMEOUT, or this machine has too few GPUs.
    """
    timeout, backend = timedelta(seconds=cfg.DIST_TIMEOUT), "gloo"
    if cfg.NUM_GPUS > 0:
        _choose_gpu(place)
        backend = f"cpu:gloo,cuda:{cfg.DIST_BACKEND}"
    if place.local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // place.local_size))
    try:
        store, _, _ = next(rendezvous(meeting, place.rank, place.world_size, timeout=timeout))
        group = dist.PrefixStore("group", store)
        dist.init_process_group(backend, store=group, rank=place.rank, world_size=place.world_size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"rank {place.rank} of {place.world_size} failed to join the process group at {meeting}: "
            f"{_first_line(error)}. Check that all processes were started, that this address is the first node's and "
            "can be reached from here, and that its port is free (docs/slurm.md, When it hangs); DIST_TIMEOUT is how "
            "long they wait for each other"
        ) from error
    ranks.enter(place, store, _part)


def _choose_gpu(place: DistInfo) -> None:
    visible = torch.cuda.device_count()
    if visible > 1 and visible < place.local_size:
        raise UserError(
            f"{place.local_size} processes compute on GPUs of this machine, which shows them {visible}: start "
            f"{visible} processes (NUM_GPUS {visible}), or ask for more GPUs"
        )
    # A job scheduler may show each process its own GPU only.
    torch.cuda.set_device(place.local_rank if visible > 1 else 0)


def _part(at_once: bool) -> None:
    if at_once and hasattr(dist.group.WORLD, "abort"):  # NCCL would wait for the others; older PyTorch has no other way
        dist.group.WORLD.abort()
    dist.destroy_process_group()


def leave() -> None:
    """Parts from the others when all have come so far."""
    if dist_info().world_size > 1:
        barrier()
        ranks.leave()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


# ---------------------------------------------------------------- what processes tell each other


def all_reduce_sum(*values: Tensor | float) -> list[float]:
    """The sum of each value over all processes; reads from the device."""
    summed = torch.tensor([float(value) for value in values], dtype=torch.float64)
    merge(summed, by="sum")
    return summed.tolist()


def merge(tensor: Tensor, by: Literal["sum", "max"]) -> None:
    """Makes each number of a tensor on the CPU the sum or the largest of those of all processes, in place."""
    if dist_info().world_size > 1:
        dist.all_reduce(tensor, {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[by])


def all_gather_objects(item: Item) -> list[Item]:
    """A small picklable item of each process, in the order of their ranks."""
    if dist_info().world_size == 1:
        return [item]
    items: list[Item] = [item] * dist_info().world_size
    dist.all_gather_object(items, item)
    return items


def from_main_process(find: Callable[[], Item]) -> Item:
    """What `find` returns in the lead, which alone calls it: a small picklable item."""
    items = [find() if is_main_process() else None]
    if dist_info().world_size > 1:
        dist.broadcast_object_list(items, src=0, device=torch.device("cpu"))
    return items[0]


def most(number: int) -> int:
    """The largest number of all processes."""
    largest = torch.tensor([number])
    merge(largest, by="max")
    return int(largest)


class Agreement:
    """What any process wishes, as all of them learn it one call later, so that none waits for another.

    Every process must make equally many calls.
    """

    def __init__(self) -> None:
        self._sent: tuple[Tensor, dist.Work] | None = None

    def largest(self, wish: int) -> int:
        """Tells this process's wish; returns the largest of all processes' last call, 0 at first; alone, the wish."""
        if dist_info().world_size == 1:
            return wish
        before = self.end()
        told = torch.tensor([wish])
        self._sent = told, dist.all_reduce(told, dist.ReduceOp.MAX, async_op=True)
        return before

    def end(self) -> int:
        """Waits for what is under way; the largest wish of the last call."""
        if self._sent is None:
            return 0
        told, work = self._sent
        work.wait()
        self._sent = None
        return int(told)


def barrier() -> None:
    """Waits until every process has come here."""
    if dist_info().world_size > 1:
        all_reduce_sum(0.0)  # by gloo, and so without a GPU's part in it


# ---------------------------------------------------------------- one model in several processes


class _Forward(nn.Module):
    """A model with another forward pass than its own."""

    def __init__(self, model: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self._call = model, forward

    def forward(self, clip: Tensor) -> Tensor:
        return self._call(clip)


class _Replica(DistributedDataParallel):
    """One of the copies of a model; its first backward pass is always joined, for that fixes which parameters are used.

    A graph known to be the same in every step spares looking for the unused ones again, and allows them to be there.
    """

    def __init__(self, model: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        on_gpu = next(model.parameters()).is_cuda
        devices = [torch.cuda.current_device()] if on_gpu else None
        super().__init__(_Forward(model, forward), device_ids=devices, gradient_as_bucket_view=True, static_graph=True)
        self.broadcast_buffers = False  # or rank 0's statistics would replace the others', see `average_statistics`
        self._is_fixed = False

    def accumulating(self) -> AbstractContextManager:
        was_fixed, self._is_fixed = self._is_fixed, True
        # Averaging early what is averaged again later, together with what is added to it, comes to the same.
        return self.no_sync() if was_fixed else nullcontext()


def parallel(model: nn.Module, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The forward pass such that gradients are averaged over all processes, which have the lead's weights from here on.

    Every backward pass must use the same parameters; some may never be used, and some may be frozen before this call.
    The model itself is left alone.

    Args:
        model: whose parameters are meant.
        forward: its forward pass in training: the model, or a compiled one.
    """
    return forward if dist_info().world_size == 1 else _Replica(model, forward)


def accumulating(forward: Callable[[Tensor], Tensor]) -> AbstractContextManager:
    """The context for forward and backward passes after which more follow before the optimizer's step.

    Args:
        forward: what `parallel` returned; the processes need not exchange gradients yet.
    """
    return forward.accumulating() if isinstance(forward, _Replica) else nullcontext()


def average_statistics(model: nn.Module, share: float) -> None:
    """Makes the running statistics of batch norms the mean of those of all processes, each of which must call this.

    As timm's `distribute_bn`, weighted by the clips of each process: where batch norms see the clips themselves, the
    running mean is that of a single process. Layers in evaluation mode, such as frozen ones, are left alone.

    Args:
        model: the same in all processes, with the statistics that they had in common before this step.
        share: of the clips of the step, those that this process had; the shares sum to 1.
    """
    if dist_info().world_size == 1:
        return
    layers = [dict(module.named_buffers(recurse=False)) for module in model.modules() if module.training]
    means = [layer[name] for layer in layers for name in ("running_mean", "running_var") if name in layer]
    counts = [layer["num_batches_tracked"] for layer in layers if "num_batches_tracked" in layer]
    for buffers, factor, operation in ((means, share, dist.ReduceOp.SUM), (counts, 1, dist.ReduceOp.MAX)):
        if buffers:
            joined = torch.cat([buffer.flatten() for buffer in buffers]) * factor
            dist.all_reduce(joined, operation)
            for buffer, values in zip(buffers, joined.split([buffer.numel() for buffer in buffers]), strict=True):
                buffer.copy_(values.view_as(buffer))
