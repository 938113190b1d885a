"""Training steps and inference of TimeSformer by this project, the original and Hugging Face: time, memory, use."""

import copy
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from timesformer.benchmarks import timing
from timesformer.benchmarks.loading import dataset_of
from timesformer.benchmarks.original import OriginalTimeSformer
from timesformer.benchmarks.tables import header, row
from timesformer.config import get_cfg
from timesformer.datasets.loader import construct_loader, set_epoch
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.errors import UserError, counted
from timesformer.models.vit import TimeSformer
from timesformer.models.weights.formats import CheckpointMetadata, describe, to_huggingface
from timesformer.models.weights.huggingface import config_json
from timesformer.models.wrappers import checkpoint_activations
from timesformer.runtime.device import peak_memory, prefetch_to_device, reset_peak_memory
from timesformer.torchvision_import import import_package

ORIGINAL, HUGGING_FACE, OURS = "the original's way", "Hugging Face", "this project"
_TOLERANCE = 1e-3  # of logits of about 1, in float32


class Size(NamedTuple):
    """Size of clips (crop: side in pixels) and of the model; the base model by default."""

    batch_size: int
    frames: int
    crop: int
    attention_type: str = "divided_space_time"
    width: int = 768
    depth: int = 12
    heads: int = 12

    def __str__(self) -> str:
        return f"{self.batch_size} x {self.frames} frames x {self.crop} px"


class Contender(NamedTuple):
    """An implementation and its precision, "fp32", "tf32" (on a GPU) or "bf16".

    setting: "compiled", or "recomputing" with a value of ACT_CHECKPOINT.
    """

    implementation: str
    precision: str = "fp32"
    setting: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, self))

    def prepare(self, models: Mapping[str, nn.Module], clip: Tensor, training: bool) -> Callable[[], None]:
        """A function that runs one training step, or one forward pass."""
        model = models[self.implementation]
        if self.setting == "compiled":
            model = torch.compile(model, dynamic=False)
        elif self.setting:
            model = copy.deepcopy(model)  # since it cannot be undone
            checkpoint_activations(model, self.setting.split()[1])
        return make_run(model, clip, training, self.precision)


def contenders(precisions: Sequence[str], compiled: bool, recompute: str, attention_type: str) -> list[Contender]:
    """The rows of the table, the baseline first: the original's way in fp32, or Hugging Face's for joint attention."""
    settings = ["", *["compiled"] * compiled, *[f"recomputing {recompute}"] * (recompute != "none")]
    original = [Contender(ORIGINAL)] * (attention_type == "divided_space_time")
    theirs = [Contender(HUGGING_FACE, precision) for precision in precisions]
    return [*original, *theirs, *(Contender(OURS, *pair) for pair in itertools.product(precisions, settings))]


def build_ours(size: Size) -> TimeSformer:
    """This project's model with random weights, always the same."""
    torch.manual_seed(0)
    sizes = {"embed_dim": size.width, "depth": size.depth, "num_heads": size.heads}
    ours = TimeSformer(size.crop, 16, 400, size.frames, size.attention_type, drop_path_rate=0.0, **sizes)
    with torch.no_grad():
        for parameter in ours.parameters():  # no zeros, which would hide part of the computation from comparisons
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return ours


def build_models(size: Size, device: torch.device) -> dict[str, nn.Module]:
    """Models by implementation, each with its own copy of the same random weights; the original's if divided."""
    transformers = import_package("transformers", "the comparison")
    ours = build_ours(size)
    state = ours.model.state_dict()
    description = describe(state, CheckpointMetadata(), num_heads=size.heads, num_frames=size.frames)
    config = transformers.TimesformerConfig.from_dict(config_json(description, get_cfg(), {}))
    theirs = transformers.TimesformerForVideoClassification(config)
    theirs.load_state_dict(to_huggingface(state, description))
    models = {OURS: ours, HUGGING_FACE: theirs}
    if size.attention_type == "divided_space_time":
        models[ORIGINAL] = OriginalTimeSformer(copy.deepcopy(ours.model))
    return {name: model.to(device) for name, model in models.items()}


def random_clip(size: Size, device: torch.device) -> Tensor:
    """Normally distributed clips [batch, 3, frames, crop, crop], always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size.batch_size, 3, size.frames, size.crop, size.crop, generator=generator).to(device)


def make_run(model: nn.Module, clip: Tensor, training: bool, precision: str = "fp32") -> Callable[[], None]:
    """A function that runs a training step, or else a forward pass."""
    model.train(training)
    labels = torch.zeros(len(clip), dtype=torch.long, device=clip.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def infer() -> None:
        allow_tf32(precision == "tf32")
        with torch.inference_mode(), torch.autocast(clip.device.type, torch.bfloat16, precision == "bf16"):
            logits_of(model, clip)

    return partial(train_step, model, optimizer, clip, labels, precision) if training else infer


def train_step(model: nn.Module, optimizer: Optimizer, clip: Tensor, labels: Tensor, precision: str) -> None:
    """Forward, cross entropy, backward, update."""
    allow_tf32(precision == "tf32")
    with torch.autocast(clip.device.type, torch.bfloat16, precision == "bf16"):
        logits = logits_of(model, clip)
    nn.functional.cross_entropy(logits.float(), labels).backward()
    optimizer.step()
    optimizer.zero_grad()


def allow_tf32(allowed: bool) -> None:
    """Lets a GPU round the factors of float32 products to TF32."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def logits_of(model: nn.Module, clip: Tensor) -> Tensor:
    """Logits for clips [batch, channels, frames, height, width], also of Hugging Face's models."""
    return model(clip.transpose(1, 2)).logits if hasattr(model, "config") else model(clip)


def training_table(size: Size, rows: Sequence[Contender], rounds: int, threads: int, memory: bool) -> Iterator[str]:
    """Tables of training steps and of inference; with peak memory if `memory`, each contender in a fresh process."""
    device = timing.select_device(threads)
    models, clip = build_models(size, device), random_clip(size, device)
    differences = compare_logits(models, clip)
    peaks = {precision: matmul_peak(precision, device) for precision in sorted({one.precision for one in rows})}
    clock, what = timing.clock_of(device)
    yield timing.describe_machine(device)
    yield f"clips: {size}, base model, 400 classes; medians of {counted(rounds, 'round')} of {what}"
    yield "largest difference of logits: " + ", ".join(f"{value:.1e} ({name})" for name, value in differences.items())
    measured = (f"{peak / 1e12:.2f} TFLOP/s ({precision})" for precision, peak in peaks.items())
    yield f"measured peak of a matrix product: {', '.join(measured)}"
    for passes, title in ((3, "training step"), (1, "inference")):
        training = passes > 1
        operations = {name: count_operations(model, clip, training) for name, model in models.items()}
        columns = ["seconds", "clips/s", f"times {rows[0].implementation}", "times Hugging Face"]
        yield from ["", *header("", [title, *columns, "memory (GB)", "utilisation"])]
        shown = [one for one in rows if training or not one.setting.startswith("recomputing")]
        runs = {one: one.prepare(models, clip, training) for one in shown}
        times = timing.time_in_turn(runs, rounds, device, clock)
        for one, seconds in times.items():
            if not seconds:
                yield row([one, "out of memory", *["-"] * 5])
                continue
            median, peer = statistics.median(seconds), times.get(Contender(HUGGING_FACE, one.precision), [])
            cells = [f"{median:.3f}", f"{size.batch_size / median:.2f}"]
            cells += [format_speedup(times[shown[0]], seconds), format_speedup(peer, seconds)]
            peak = timing.run_in_subprocess(measure_memory, size, one, training, threads) if memory else None
            cells += [f"{peak / 1e9:.2f}" if peak else "-"]
            rate = passes * operations[one.implementation] / median
            yield row([one, *cells, f"{100 * rate / peaks[one.precision]:.0f} %"])


@torch.no_grad()
def compare_logits(models: Mapping[str, nn.Module], clip: Tensor) -> dict[str, float]:
    """Largest differences between float32 logits of the other models and of ours; UserError if one is too large."""
    allow_tf32(False)
    logits = {name: logits_of(model.eval(), clip) for name, model in models.items()}
    ours = logits.pop(OURS)
    differences = {name: (theirs - ours).abs().max().item() for name, theirs in logits.items()}
    if max(differences.values(), default=0.0) > _TOLERANCE:
        raise UserError(f"the models do not compute the same, largest differences of logits: {differences}")
    return differences


def data_lines(size: Size, file: Path, folder: Path, workers: int, steps: int, precision: str) -> Iterator[str]:
    """The share of time that training waits for clips of this file, over `steps` steps after one to warm up."""
    device = timing.select_device()
    cfg = dataset_of([file] * (steps + 1) * size.batch_size, folder)
    cfg.TRAIN.BATCH_SIZE, cfg.DATA_LOADER.NUM_WORKERS = size.batch_size, workers
    cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE = size.frames, size.crop
    cfg.DATA.TRAIN_JITTER_SCALES = [size.crop * 8 // 7, size.crop * 10 // 7]
    loader = construct_loader(cfg, "train")
    set_epoch(loader, 0)
    model = build_models(size, device)[OURS]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    synchronize = torch.get_device_module(device).synchronize
    waited = started = step_end = 0.0
    for index, batch in enumerate(prefetch_to_device(loader, device)):
        waited += time.perf_counter() - step_end
        train_step(model, optimizer, normalize_clips(batch["clip"], cfg, device), batch["label"], precision)
        if index == 0:
            synchronize()
            waited, started = 0.0, time.perf_counter()
        step_end = time.perf_counter()
    synchronize()
    seconds = time.perf_counter() - started
    yield timing.describe_machine(device)
    rate, share = steps * size.batch_size / seconds, 100 * waited / seconds
    yield (
        f"Training on files, {size}, in {precision}, with {counted(workers, 'DataLoader worker')}: {rate:.2f} clips/s "
        f"over {counted(steps, 'step')}, {share:.1f} % of the time waiting for data."
    )


def measure_memory(size: Size, contender: Contender, training: bool, threads: int) -> int:
    """Peak memory of a contender in this process, in bytes."""
    device = timing.select_device(threads)
    model = build_models(size, timing.CPU)[contender.implementation].to(device)
    reset_peak_memory(device)
    run = contender.prepare({contender.implementation: model}, random_clip(size, device), training)
    for _ in range(2):  # the optimizer's state is created by the first step
        run()
    return peak_memory(device)


def format_speedup(baseline: Sequence[float], seconds: Sequence[float]) -> str:
    """How many times as fast as the baseline: median (lowest to highest) of the rounds."""
    if not baseline:
        return "-"
    ratios = [slow / fast for slow, fast in zip(baseline, seconds, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def count_operations(model: nn.Module, clip: Tensor, training: bool) -> int:
    """Floating-point operations of the matrix products in a forward pass, two per multiply-add.

    Without gradients, this project's model combines linear layers and has fewer.
    """
    # PyTorch's counter lacks the CPU's kernel; its arguments have shape [batch, heads, tokens, d].
    attention = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, *_, **__: 4 * math.prod(q) * k[-2]
    }
    with torch.set_grad_enabled(training), FlopCounterMode(display=False, custom_mapping=attention) as counter:
        logits_of(model.eval(), clip)
    return counter.get_total_flops()


def matmul_peak(precision: str, device: torch.device, side: int = 0) -> float:
    """Operations per second of the fastest of ten products of two large square matrices, by default of this device."""
    allow_tf32(precision == "tf32")
    side = side or (8192 if device.type == "cuda" else 2048)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(2, side, side, device=device, dtype=dtype)
    return 2 * side**3 / min(timing.time_in_turn({"": lambda: left @ right}, 10, device)[""])
