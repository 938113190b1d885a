"""Process group, collectives and data-parallel training. Every function also works in a run of one process."""

import gc
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


def init_process_group(cfg: CfgNode, info: DistInfo, init_method: str) -> None:
    """Joins the process group: gloo for CPU, DIST_BACKEND for GPU tensors; UserError after DIST_TIMEOUT."""
    import torch._dynamo  # DistributedDataParallel imports it, which keeps the groups that exist by then

    timeout, backend = timedelta(seconds=cfg.DIST_TIMEOUT), "gloo"
    if cfg.NUM_GPUS > 0:
        visible = torch.cuda.device_count()
        if 1 < visible < info.local_size:
            raise UserError(f"{info.local_size} processes of this node need a GPU each: set NUM_GPUS {visible}")
        torch.cuda.set_device(info.local_rank if visible > 1 else 0)  # each process may see its own GPU only
        backend = f"cpu:gloo,cuda:{cfg.DIST_BACKEND}"
    if info.local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // info.local_size))
    try:
        store, _, _ = next(rendezvous(init_method, info.rank, info.world_size, timeout=timeout))
        group = dist.PrefixStore("group", store)
        dist.init_process_group(backend, store=group, rank=info.rank, world_size=info.world_size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"rank {info.rank} of {info.world_size} failed to join the process group at {init_method}: {reason}. Were "
            "all processes started, and can they reach this port of the first node? See docs/slurm.md, When it hangs"
        ) from error
    ranks.enter(info, store, _destroy)


def _destroy(abort: bool) -> None:
    if abort and hasattr(dist.group.WORLD, "abort"):  # NCCL would wait for the other ranks
        dist.group.WORLD.abort()
    dist.destroy_process_group()


def destroy_process_group() -> None:
    """Leaves the process group once all processes have called this, and ends its threads.

    A thread of gloo that frees a tensor while Python exits would abort the process.
    """
    barrier()
    gc.collect()  # models of `parallel` that keep the group
    ranks.leave()


def all_reduce(tensor: Tensor, op: Literal["sum", "max"]) -> None:
    """Replaces a CPU tensor by its sum or maximum over all processes."""
    if dist_info().world_size > 1:
        dist.all_reduce(tensor, {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[op])


def all_reduce_sum(*values: Tensor | float) -> list[float]:
    """Returns the sum of each value over all processes."""
    summed = torch.tensor([float(value) for value in values], dtype=torch.float64)
    all_reduce(summed, "sum")
    return summed.tolist()


def all_reduce_max(number: int) -> int:
    """Returns the largest number of all processes."""
    return max(all_gather_objects(number))


def barrier() -> None:
    """Waits until every process has called this; uses gloo, so the GPUs take no part."""
    all_reduce_sum(0.0)


def all_gather_objects(item: Item) -> list[Item]:
    """Returns the picklable items of all processes, by rank."""
    items: list[Item] = [item] * dist_info().world_size
    if dist_info().world_size > 1:
        dist.all_gather_object(items, item)
    return items


def from_main_process(function: Callable[[], Item]) -> Item:
    """Calls `function` on rank 0 and returns its picklable result on every rank."""
    items = [function() if is_main_process() else None]
    if dist_info().world_size > 1:
        dist.broadcast_object_list(items, src=0, device=torch.device("cpu"))
    return items[0]


class DelayedMax:
    """Maximum over all processes, reduced in the background; every process must make the same number of calls."""

    def __init__(self) -> None:
        self._work: dist.Work | None = None
        self._largest = torch.tensor([0])

    def exchange(self, value: int) -> int:
        """Sends a value; returns the maximum of the previous call, 0 at first. A single process gets its value."""
        if dist_info().world_size == 1:
            return value
        previous, self._largest = self.wait(), torch.tensor([value])
        self._work = dist.all_reduce(self._largest, dist.ReduceOp.MAX, async_op=True)
        return previous

    def wait(self) -> int:
        """Waits for the last call; returns its maximum."""
        if self._work is not None:
            self._work.wait()
        return int(self._largest)


class _Replica(DistributedDataParallel):
    """DDP with a static graph, which allows unused parameters but must synchronize its first backward pass."""

    _is_first = True

    def no_sync(self) -> AbstractContextManager:
        is_first, self._is_first = self._is_first, False
        # Gradients that are averaged early and added to are averaged again: the result is the same.
        return nullcontext() if is_first else super().no_sync()


def parallel(model: nn.Module, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wraps the model's forward pass to average gradients over all processes; all get the weights of rank 0.

    Every backward pass must use the same parameters; some may be frozen or unused.
    """
    if dist_info().world_size == 1:
        return forward
    module = nn.Module()
    module.model, module.forward = model, lambda clip: forward(clip)
    devices = [torch.cuda.current_device()] if next(model.parameters()).is_cuda else None
    replica = _Replica(module, device_ids=devices, gradient_as_bucket_view=True, static_graph=True)
    replica.broadcast_buffers = False  # after the first broadcast: see `average_batch_norm`
    return replica


def no_sync(forward: Callable[[Tensor], Tensor]) -> AbstractContextManager:
    """Returns the context for passes of `parallel`'s result whose gradients are only accumulated."""
    return forward.no_sync() if isinstance(forward, _Replica) else nullcontext()


def average_batch_norm(model: nn.Module, share: float) -> None:
    """Averages the running statistics of batch norms in training mode over all processes.

    `share`, the fraction of the step's clips that this process computed, is its weight, unlike in timm's
    `distribute_bn`, so that the running mean of the first layer is that of a single process.
    """
    layers = [dict(module.named_buffers(recurse=False)) for module in model.modules() if module.training]
    buffers = [layer[name] for layer in layers for name in ("running_mean", "running_var") if name in layer]
    if buffers and dist_info().world_size > 1:
        flat = torch.cat([buffer.flatten() for buffer in buffers]) * share
        dist.all_reduce(flat)
        for buffer, values in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(values.view_as(buffer))
