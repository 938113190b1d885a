"""How the cost of a training step grows with frames, pixels and processes."""

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from fvcore.common.config import CfgNode

from timesformer.benchmarks import timing
from timesformer.benchmarks.gpu_memory import activation_bytes, state_bytes
from timesformer.benchmarks.tables import header, row
from timesformer.benchmarks.training import Size, build_ours, count_operations, random_clip, train_step
from timesformer.config import get_cfg
from timesformer.errors import UserError, counted
from timesformer.runtime import distributed
from timesformer.runtime.device import peak_memory, reset_peak_memory
from timesformer.runtime.launch import run_processes
from timesformer.runtime.ranks import DistInfo, is_main_process
from timesformer.runtime.resource_limits import available_cores

PASSES = 3  # a backward pass has the operations of two forward passes
_BUCKET = 25 * 2**20  # bytes of gradients that DistributedDataParallel averages at once
_MEMORY_SHARE = 0.7  # of the available memory that a step may need
_NODE = 8  # GPUs


class Cost(NamedTuple):
    """A training step: counted operations, seconds of processor time in each round, bytes that it adds at its peak."""

    operations: int
    seconds: list[float]
    memory: int


class Network(NamedTuple):
    """Bandwidth of all links of a node in one direction, in bytes per second."""

    name: str
    bandwidth: float


NVLINK = Network("NVLink of an H100", 450e9)
NETWORKS = (
    Network("8 x 400 Gbit/s", 400e9),
    Network("400 Gbit/s", 50e9),
    Network("100 Gbit/s", 12.5e9),
)
_GPUS = (8, 16, 32, 64, 128, 256)
_ASSUMED_RATE = 400e12  # operations per second of a training step in bf16 on an H100, whose data sheet has 989e12
_LATENCY = 10e-6  # seconds of a message between nodes


def size_of(width: int, frames: int, crop: int) -> Size:
    """One clip, and a model with 64 dimensions in each head."""
    return Size(1, frames, crop, width=width, heads=width // 64)


def growth_table(frames: Sequence[int], crops: Sequence[int], width: int, rounds: int) -> Iterator[str]:
    """A row for each size: time and memory of a step compared with its operations; skips sizes that need too much."""
    available = available_memory()
    yield timing.describe_machine()
    caption = (
        f"One clip, width {width}, depth 12, float32, SGD with momentum, one thread; processor time, medians of "
        f"{counted(rounds, 'step')} after a warm-up. Computed memory: weights, gradients, optimizer "
        "state, and saved activations."
    )
    columns = ["pixels", "tokens", "GFLOP", "seconds", "GFLOP/s", "times the operations", "times the seconds"]
    yield from ["", *header(caption, ["frames", *columns, "memory (GB)", "computed (GB)"], text_columns=0)]
    first: Cost | None = None
    for number in frames:
        for crop in crops:
            size = size_of(width, number, crop)
            needed = computed_bytes(size)
            cells = [number, crop, number * (crop // 16) ** 2 + 1]
            if needed > _MEMORY_SHARE * available:
                reason = f"not measured: {available / 1e9:.0f} GB are available"
                yield row([*cells, reason, *["-"] * 5, f"{needed / 1e9:.2f}"])
                continue
            cost: Cost | None = timing.run_in_subprocess(measure_cost, size, rounds)
            if cost is None:
                yield row([*cells, "out of memory", *["-"] * 5, f"{needed / 1e9:.2f}"])
                continue
            first = first or cost
            seconds = statistics.median(cost.seconds)
            cells += [f"{cost.operations / 1e9:.1f}", f"{seconds:.3f}", f"{cost.operations / seconds / 1e9:.1f}"]
            cells += [f"{cost.operations / first.operations:.1f}", f"{seconds / statistics.median(first.seconds):.1f}"]
            yield row([*cells, f"{cost.memory / 1e9:.2f}", f"{needed / 1e9:.2f}"])


def available_memory() -> int:
    """Bytes that a process can use without swapping, on Linux; elsewhere no limit is known."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return 2**60
    return int(path.read_text().partition("MemAvailable:")[2].split()[0]) * 1024


def computed_bytes(size: Size) -> int:
    """Bytes of weights, gradients, momentum, and of the activations saved for the backward pass."""
    cfg = get_cfg()
    cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.NUM_FRAMES = size.crop, size.frames
    model = build_ours(size)
    return state_bytes(model, "sgd") + activation_bytes(model, cfg, "fp32", size.batch_size)


def measure_cost(size: Size, rounds: int) -> Cost:
    """The cost of a training step in this process, with one thread."""
    device = timing.select_device(1) if not torch.cuda.is_available() else timing.CPU
    reset_peak_memory(device)
    before = peak_memory(device)
    model, clip = build_ours(size), random_clip(size, device)
    labels = torch.zeros(size.batch_size, dtype=torch.long)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    run = partial(train_step, model.train(), optimizer, clip, labels, "fp32")
    seconds = timing.time_in_turn({"": run}, rounds, device, time.process_time)[""]
    memory = peak_memory(device) - before
    return Cost(PASSES * count_operations(model, clip, training=True), seconds, memory)


def parallel_table(processes: Sequence[int], width: int, rounds: int, folder: Path) -> Iterator[str]:
    """A row for each number of processes of one thread that train together, each with its own clip."""
    size, cores = size_of(width, 8, 112), available_cores()
    parameters = sum(parameter.numel() for parameter in build_ours(size).parameters())
    yield (
        f"{timing.describe_machine()}; {counted(cores, 'core')}, gloo. A clip of {size.frames} frames of {size.crop} "
        f"pixels for each process, width {width}: {4 * parameters / 1e6:.1f} MB of gradients; medians of "
        f"{counted(10 * rounds, 'step')}."
    )
    columns = ["step alone (s)", "with averaging (s)", "clips/s", "efficiency", "at most, by cores"]
    yield from ["", *header("", ["processes", *columns, "processor time of averaging (s)"], text_columns=0)]
    single = 0.0
    for count in processes:
        path = folder / f"{count}.json"
        infos = [DistInfo(rank, count, rank, count) for rank in range(count)]
        cfg = get_cfg()
        cfg.NUM_GPUS, cfg.OUTPUT_DIR = 0, str(folder)
        main = partial(measure_replica, size=size, steps=10 * rounds, path=path)
        if code := run_processes(cfg, main, infos, (folder / f"rendezvous-{count}").as_uri()):
            raise UserError(f"a process of {count} ended with exit code {code}")
        times = json.loads(path.read_text(encoding="utf-8"))
        rate = count / times["averaged"]
        single = single or rate / count
        cells = [
            count,
            f"{times['alone']:.3f}",
            f"{times['averaged']:.3f}",
            f"{rate:.2f}",
            f"{rate / count / single:.0%}",
        ]
        yield row([*cells, f"{min(1.0, cores / count):.0%}", f"{times['averaging']:.3f}"])


def measure_replica(cfg: CfgNode, size: Size, steps: int, path: Path) -> None:
    """In each process: steps with and without averaging of gradients, in turn. Rank 0 writes their median seconds.

    The slowest process decides on the time of a step.
    """
    torch.set_num_threads(1)
    model, clip = build_ours(size).train(), random_clip(size, timing.CPU)
    forward = distributed.parallel(model, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    labels = torch.zeros(size.batch_size, dtype=torch.long)

    def step() -> None:
        torch.nn.functional.cross_entropy(forward(clip), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    def step_alone() -> None:
        with distributed.no_sync(forward):
            step()

    def seconds(run: partial | object) -> tuple[float, float]:
        distributed.barrier()
        wall, processor = time.perf_counter(), time.process_time()
        run()
        return time.perf_counter() - wall, time.process_time() - processor

    step()
    pairs = [(seconds(step_alone), seconds(step)) for _ in range(steps)]
    ranks = distributed.all_gather_objects(pairs)
    if is_main_process():
        by_step = list(zip(*ranks, strict=True))
        alone, averaged = (
            statistics.median(max(pair[kind][0] for pair in pairs) for pairs in by_step) for kind in (0, 1)
        )
        averaging = statistics.median(
            statistics.mean(with_it[1] - without[1] for without, with_it in pairs) for pairs in by_step
        )
        path.write_text(json.dumps({"alone": alone, "averaged": averaged, "averaging": averaging}))


def estimate_table(step_seconds: float) -> Iterator[str]:
    """Estimated efficiency of data-parallel training of the base model on GPUs, without and with overlap.

    `step_seconds` is the time of a step of 8 clips on one of them, or 0 for that of 400 TFLOP/s.
    """
    size = Size(8, 8, 224)
    with torch.device("meta"):
        model = build_ours(size)
        operations = PASSES * size.batch_size * count_operations(model, torch.empty(1, 3, 8, 224, 224), training=True)
    step_seconds = step_seconds or operations / _ASSUMED_RATE
    gradient_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    rate = f"{operations / step_seconds / 1e12:.0f} TFLOP/s"
    yield (
        f"Estimated, not measured. Base model, {size.batch_size} clips of 8 frames of 224 pixels for each GPU: "
        f"{operations / 1e12:.2f} TFLOP and {gradient_bytes / 1e6:.0f} MB of gradients in a step of "
        f"{1e3 * step_seconds:.0f} ms ({rate}). Efficiency without overlap / with overlap."
    )
    yield from ["", *header("", ["GPUs", *(network.name for network in NETWORKS)], text_columns=0)]
    for count in _GPUS:
        cells = []
        for network in NETWORKS:
            seconds = all_reduce_seconds(count, gradient_bytes, network)
            pair = (efficiency(step_seconds, seconds, gradient_bytes, overlap) for overlap in (False, True))
            cells.append(" / ".join(f"{value:.1%}" for value in pair))
        yield row([count, *cells])


def all_reduce_seconds(count: int, gradient_bytes: int, network: Network) -> float:
    """A ring all-reduce: each GPU sends and receives 2 (N - 1) / N of the gradients, at the speed of the slowest link.

    A ring crosses each node once in each direction, so that its GPUs share the bandwidth of the node.
    """
    nodes = -(-count // _NODE)
    bandwidth = NVLINK.bandwidth if nodes == 1 else min(NVLINK.bandwidth, network.bandwidth)
    return 2 * (count - 1) / count * gradient_bytes / bandwidth + 2 * (nodes - 1) * _LATENCY


def efficiency(step_seconds: float, all_reduce: float, gradient_bytes: int, overlap: bool) -> float:
    """Seconds of a step alone over those with averaging.

    With overlap, averaging runs during the backward pass, two thirds of a step, except for the last bucket.
    """
    visible = all_reduce
    if overlap:
        last = all_reduce * min(1.0, _BUCKET / gradient_bytes)
        visible = max(last, all_reduce - 2 / 3 * step_seconds)
    return step_seconds / (step_seconds + visible)
