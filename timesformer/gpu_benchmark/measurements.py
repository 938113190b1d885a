"""What `timesformer benchmark gpu` measures, part by part: generators of rows, which a part yields one by one."""

import gc
import importlib.util
import json
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import timesformer
from timesformer.benchmarks import training
from timesformer.benchmarks.original import load_original
from timesformer.benchmarks.training import HUGGING_FACE, ORIGINAL, OURS, Contender, Size
from timesformer.config import load_config
from timesformer.datasets.catalog import Splits
from timesformer.engine.evaluate import test as test_model
from timesformer.engine.train import train
from timesformer.errors import UserError
from timesformer.models.attention import attention_weights
from timesformer.preparation import demo
from timesformer.runtime.device import peak_memory, reset_peak_memory
from timesformer.runtime.logging import set_up_logging
from timesformer.torchvision_import import repair_torchvision

repair_torchvision()  # before transformers imports it

Row = dict[str, Any]
HUGGING_FACE_SDPA = f"{HUGGING_FACE}, SDPA"
TESTS = ("tests/test_gpu.py", "tests/runtime/test_device.py")
_DEMO = "Demo/TimeSformer_divST_8x2_48"
_DEMO_CLIPS = (120, 20, 40)  # of each class for training, validation and test, as `prepare demo` makes


class Settings(NamedTuple):
    """Options of all parts: `tiny` computes with tiny models and clips; `original` has the original's code."""

    device: str
    tiny: bool
    original: Path | None
    folder: Path

    def size(self, batch_size: int, frames: int = 8, crop: int = 224) -> Size:
        """The base model and these clips; or a tiny model and as many tiny clips, longer or larger where these are."""
        if not self.tiny:
            return Size(batch_size, frames, crop)
        return Size(batch_size // 8, min(frames, 16) // 4, 32 if crop == 224 else 64, width=32, depth=2, heads=2)


class SkippedPart(Exception):
    """The reason why a part cannot be measured here."""


def run_tests(settings: Settings) -> Iterator[Row]:
    """Tests that need a GPU: copies of batches on a stream, fp16, compilation, NCCL with one process."""
    root = Path(timesformer.__file__).resolve().parents[1]
    files = [root / name for name in TESTS]
    if not all(file.is_file() for file in files):
        raise SkippedPart(f"no {TESTS[0]} next to the package: run this in a source checkout")
    if importlib.util.find_spec("pytest") is None:
        raise SkippedPart("pytest is not installed")
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=pytest_process, args=(sender, root, files))
    process.start()
    sender.close()
    code = None
    with suppress(EOFError):
        while isinstance(message := receiver.recv(), dict):
            yield message
        code = message
    process.join()
    if code not in (0, 1):  # all tests passed, some failed
        raise UserError(f"pytest ended with exit code {process.exitcode if code is None else code}")


def pytest_process(sender: Connection, root: Path, files: Sequence[Path]) -> None:
    """Runs tests in a process of their own; sends a row when each of them ends, and then pytest's exit code."""
    import pytest

    sys.stdout.reconfigure(line_buffering=True)

    class Reports:
        """Sends the outcome of each test."""

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.outcome != "passed":
                message = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr or "")
                row = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
                sender.send(row | {"message": message.strip()[-2000:]})

    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(root), "-c", str(root / "pyproject.toml")]
    sender.send(int(pytest.main([*options, *map(str, files)], plugins=[Reports()])))


def training_steps(settings: Settings, batch_size: int) -> Iterator[Row]:
    """Training steps of all implementations and precisions, compiled ones last."""
    names, precisions = (ORIGINAL, HUGGING_FACE, OURS), ("bf16", "tf32", "fp32")
    steps = [Contender(name, precision) for precision in precisions for name in names]
    steps += [Contender(HUGGING_FACE_SDPA, "bf16")]
    steps += [Contender(name, "bf16", "compiled") for name in (OURS, HUGGING_FACE) if not settings.tiny]
    yield from measure_contenders(settings, (8, 224), [(batch_size, step) for step in steps], training_step=True)


def checkpointed_steps(settings: Settings, frames: int, crop: int) -> Iterator[Row]:
    """Training steps of this project's model on 8 long or large clips, with and without activation checkpointing."""
    steps = [Contender(OURS, "bf16", setting) for setting in ("recomputing blocks", "recomputing every_2", "")]
    yield from measure_contenders(settings, (frames, crop), [(8, step) for step in steps], training_step=True)


def inference(settings: Settings) -> Iterator[Row]:
    """Forward passes at batch sizes 8 and 32, compiled ones last."""
    passes = [Contender(name, precision) for precision in ("bf16", "fp32") for name in (ORIGINAL, HUGGING_FACE, OURS)]
    passes += [Contender(OURS, "tf32"), *[Contender(OURS, "bf16", "compiled")] * (not settings.tiny)]
    pairs = [(batch_size, one) for one in passes for batch_size in (8, 32)]
    yield from measure_contenders(settings, (8, 224), pairs, training_step=False)


def measure_contenders(
    settings: Settings, clip: tuple[int, int], contenders: Sequence[tuple[int, Contender]], training_step: bool
) -> Iterator[Row]:
    """A row for each batch size and contender: seconds of a step, operations, peak memory.

    `clip` is the number of frames and the crop. Raises UserError if logits differ. Only one model is on the device at a
    time, so that peak memory is its own.
    """
    device, one_clip = torch.device(settings.device), settings.size(8, *clip)._replace(batch_size=1)
    peak = training.matmul_peak("bf16", device, 64 if settings.tiny else 0)
    wanted = {contender.implementation for _, contender in contenders}
    models, operations, differences = build_and_compare(settings, one_clip, wanted, training_step)
    for batch_size, contender in contenders:
        name, size = contender.implementation, settings.size(batch_size, *clip)
        row = contender._asdict() | size._asdict() | {"training": training_step, "bf16_product_per_second": peak}
        if name not in models:
            yield row | {"error": "not supported by this version of transformers"}
            continue
        row |= {"difference": differences.get(name, 0.0), "operations_per_clip": operations[name]}
        row["original_code"] = bool(settings.original) and name == ORIGINAL
        try:
            yield row | measure_contender(settings, size, contender, models[name], training_step)
        except torch.OutOfMemoryError:
            yield row | {"error": "out of memory"}
        if contender.setting == "compiled":
            torch.compiler.reset()
        models[name].zero_grad(set_to_none=True)
        models[name].cpu()
        free_memory(device)


def build_and_compare(
    settings: Settings, size: Size, wanted: set[str], training_step: bool
) -> tuple[dict[str, nn.Module], dict[str, int], dict[str, float]]:
    """Models in main memory, operations of a forward pass, and largest differences from our logits, by implementation.

    `size` is that of a single clip.
    """
    device = torch.device(settings.device)
    with device:  # which draws random weights faster
        if wanted == {OURS}:
            models: dict[str, nn.Module] = {OURS: training.build_ours(size)}
        else:
            models = training.build_models(size, device)
            if settings.original:
                models[ORIGINAL] = load_original(settings.original, models[OURS].model, size.crop, size.frames)
            if HUGGING_FACE_SDPA in wanted:
                models |= with_sdpa(models[HUGGING_FACE])
    clip = training.random_clip(size, device)
    differences = training.compare_logits(models, clip)
    operations = {name: training.count_operations(model, clip, training_step) for name, model in models.items()}
    models = {name: model.cpu() for name, model in models.items()}
    free_memory(device)
    return models, operations, differences


def with_sdpa(model: nn.Module) -> dict[str, nn.Module]:
    """Hugging Face's model with PyTorch's fused attention, by its name, if this version of transformers has that."""
    if not getattr(type(model), "_supports_sdpa", False):
        return {}
    fused = type(model)._from_config(model.config, attn_implementation="sdpa")
    fused.load_state_dict(model.state_dict())
    return {HUGGING_FACE_SDPA: fused}


def measure_contender(
    settings: Settings, size: Size, contender: Contender, model: nn.Module, training_step: bool
) -> Row:
    """Seconds of a step (median, least, largest), seconds of the first one, and peak memory in bytes."""
    device = torch.device(settings.device)
    reset_peak_memory(device)
    clip = training.random_clip(size, device)
    model = model.to(device)
    run = contender.prepare({contender.implementation: model}, clip, training_step)
    first, seconds = time_runs(run, device, rounds=1 if settings.tiny else 5)
    row = {"seconds": statistics.median(seconds), "least": min(seconds), "largest": max(seconds)}
    return row | {"first_seconds": first, "memory": peak_memory(device)}


def time_runs(run: Callable[[], object], device: torch.device, rounds: int) -> tuple[float, list[float]]:
    """Seconds of the first run; and of a run in each round, which waits for the device only after several runs."""
    synchronize = torch.get_device_module(device).synchronize

    def seconds_of(number: int) -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(number):
            run()
        synchronize()
        return (time.perf_counter() - start) / number

    first = seconds_of(1)
    seconds_of(1)
    number = max(1, min(50, int(0.3 / seconds_of(1)))) if rounds > 1 else 1
    return first, [seconds_of(number) for _ in range(rounds)]


def free_memory(device: torch.device) -> None:
    """Returns unused memory to the GPU, with that of objects in cycles."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def train_demo(settings: Settings) -> Iterator[Row]:
    """Accuracy of the demo model, trained on this device in float32 and, on a GPU, in fp16 with loss scaling."""
    folder = settings.folder / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    workers = max(1, min(8, (os.cpu_count() or 1) - 2))
    demo.make(folder / "clips", 0, (1, 1, 1) if settings.tiny else _DEMO_CLIPS, workers)
    on_gpu = settings.device == "cuda"
    for precision in ("off", "fp16") if on_gpu else ("off",):
        output = folder / precision
        options = {"DATA.PATH_TO_DATA_DIR": folder / "clips", "OUTPUT_DIR": output, "NUM_GPUS": int(on_gpu)}
        options |= {"TRAIN.MIXED_PRECISION": precision, "TEST.REPORT": False, "TENSORBOARD.ENABLE": False}
        options |= {"DATA_LOADER.NUM_WORKERS": 0 if settings.tiny else workers}
        options |= {"SOLVER.MAX_EPOCH": 1, "SOLVER.WARMUP_EPOCHS": 0.0} if settings.tiny else {}
        cfg = load_config(_DEMO, [str(part) for option in options.items() for part in option])
        set_up_logging(output)
        start, splits = time.perf_counter(), Splits(cfg)
        train(cfg, splits)
        trained = time.perf_counter() - start
        results = json.loads(test_model(cfg, splits).read_text(encoding="utf-8"))
        row = {"precision": precision, "top1": results["top1"], "val_top1": results["val_top1"]}
        yield row | {"test_clips": results["num_videos"], "epochs": cfg.SOLVER.MAX_EPOCH, "seconds": trained}


def attention_kernels(settings: Settings) -> Iterator[Row]:
    """Temporal attention of 8 clips of the base model in bf16 on each kernel: forward, and with the backward pass."""
    device, rounds = torch.device(settings.device), 1 if settings.tiny else 5
    patches_and_heads, dim = (8, 16) if settings.tiny else (196 * 12, 64)
    kernels: Mapping[str, SDPBackend | None] = {
        "PyTorch's choice": None,
        "SDPA, flash": SDPBackend.FLASH_ATTENTION,
        "SDPA, efficient": SDPBackend.EFFICIENT_ATTENTION,
        "SDPA, cuDNN": SDPBackend.CUDNN_ATTENTION,
        "SDPA, math": SDPBackend.MATH,
        "plain products": None,
    }
    for frames in (8,) if settings.tiny else (8, 16, 96):
        torch.manual_seed(0)
        shape = (8, frames, patches_and_heads, dim)  # as `Attention.attend_over_frames` lays tokens out
        tokens = [torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
        views = [part.transpose(1, 2) for part in tokens]
        with torch.no_grad():
            expected = attention_weights(views[0].float(), views[1].float()) @ views[2].float()
        # Three tensors are read and one is written, each once.
        bytes_moved = 4 * math.prod(shape) * torch.bfloat16.itemsize
        for name, backend in kernels.items():
            row = {"kernel": name, "frames": frames, "bytes": bytes_moved}
            try:
                yield row | measure_kernel(name, backend, views, tokens, expected, rounds)
            except torch.OutOfMemoryError:
                yield row | {"error": "out of memory"}
            except RuntimeError as error:
                yield row | {"error": str(error).partition("\n")[0]}
            free_memory(device)


def measure_kernel(
    name: str, backend: SDPBackend | None, views: list[Tensor], tokens: list[Tensor], expected: Tensor, rounds: int
) -> Row:
    """Seconds of the forward pass and of both passes, and the largest difference from float32."""
    device = expected.device

    def attend() -> Tensor:
        if name == "plain products":
            return attention_weights(views[0], views[1]) @ views[2]
        if backend is None:
            return scaled_dot_product_attention(*views)
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(*views)

    def both_passes() -> None:
        torch.autograd.grad(attend(), tokens, expected.to(torch.bfloat16))

    with torch.no_grad():
        difference = (attend().float() - expected).abs().max().item()
        forward = statistics.median(time_runs(attend, device, rounds)[1])
    reset_peak_memory(device)
    both = statistics.median(time_runs(both_passes, device, rounds)[1])
    row = {"seconds_forward": forward, "seconds_both": both, "difference": difference}
    return row | {"memory": peak_memory(device)}


def profile_step(settings: Settings) -> Iterator[Row]:
    """The operators or GPU kernels that a bf16 training step spends most time in."""
    device, size = torch.device(settings.device), settings.size(32)
    model, clip = training.build_ours(size).to(device), training.random_clip(size, device)
    run = Contender(OURS, "bf16").prepare({OURS: model}, clip, training=True)
    run()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu := device.type == "cuda":
        activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.get_device_module(device).synchronize()
    times = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event)
        for event in profile.key_averages()
    ]
    total = sum(microseconds for microseconds, _ in times)
    for microseconds, event in sorted(times, key=lambda pair: -pair[0])[:20]:
        row = {"operator": event.key, "calls": event.count, "seconds": microseconds / 1e6}
        yield row | {"share": microseconds / total}
