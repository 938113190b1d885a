"""Forward pass and training step of this project's TimeSformer and of Hugging Face's, pair by pair."""

import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from timesformer.config import get_cfg
from timesformer.models.vit import TimeSformer
from timesformer.models.weights.formats import CheckpointMetadata, describe, to_huggingface
from timesformer.models.weights.huggingface import config_json
from timesformer.torchvision_import import import_package
from tools.benchmark.machine import describe_machine
from tools.benchmark.steps import forward_of, logits_of, seconds_of, training_step


def speed_table(batch_size: int, frames: int, crop: int, rounds: int, threads: int = 0) -> Iterator[str]:
    """Lines of a Markdown table of seconds, and their ratios, on the same weights and clips, below what was measured.

    crop: height and width in pixels; rounds: pairs measured per row, after one warm-up; threads: of the CPU, 0 for
    PyTorch's choice. Raises UserError when transformers is not installed.
    """
    if threads:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield describe_machine(device)
    yield f"clips: {batch_size} x {frames} frames x {crop} px, base model, 400 classes; {rounds} pairs"
    yield ""
    yield "| what | Hugging Face (s) | this project (s) | ratio | lowest to highest | largest difference of logits |"
    yield "|---|---:|---:|---:|---|---:|"
    for attention_type in ("divided_space_time", "joint_space_time"):
        ours, theirs = model_pair(attention_type, frames, crop, device)
        clip = torch.randn(batch_size, 3, frames, crop, crop, device=device)
        difference = largest_difference(ours, theirs, clip)
        name = attention_type.split("_")[0]
        rows = [(f"{name}: forward, fp32", forward_of(theirs, clip), forward_of(ours, clip))]
        if attention_type == "divided_space_time":
            step_theirs, step_ours = training_step(theirs, clip), training_step(ours, clip)
            step_theirs_bf16, step_ours_bf16 = training_step(theirs, clip, "bf16"), training_step(ours, clip, "bf16")
            rows += [
                (f"{name}: training step, fp32", step_theirs, step_ours),
                (f"{name}: training step, bf16 against fp32", step_theirs, step_ours_bf16),
                (f"{name}: training step, bf16 against bf16", step_theirs_bf16, step_ours_bf16),
            ]
        for what, run_theirs, run_ours in rows:
            pairs = time_in_pairs(run_theirs, run_ours, rounds, device)
            ratios = sorted(theirs_s / ours_s for theirs_s, ours_s in pairs)
            theirs_s, ours_s = (statistics.median(times) for times in zip(*pairs, strict=True))
            yield (
                f"| {what} | {theirs_s:.3f} | {ours_s:.3f} | {statistics.median(ratios):.2f} | "
                f"{ratios[0]:.2f} to {ratios[-1]:.2f} | {difference:.1e} |"
            )


def model_pair(
    attention_type: str,
    frames: int,
    crop: int,
    device: torch.device,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
) -> tuple[nn.Module, nn.Module]:
    """This project's model and Hugging Face's with the same random weights; the base model by default."""
    transformers = import_package("transformers", "the comparison")
    torch.manual_seed(0)
    size = {"embed_dim": width, "depth": depth, "num_heads": heads}
    ours = TimeSformer(crop, 16, 400, frames, attention_type, drop_path_rate=0.0, **size)
    with torch.no_grad():
        for parameter in ours.parameters():  # nothing may be zero, or part of the arithmetic would go unchecked
            parameter.add_(torch.randn_like(parameter) * 0.02)
    state = ours.model.state_dict()
    description = describe(state, CheckpointMetadata(), num_heads=heads, num_frames=frames)
    config = transformers.TimesformerConfig.from_dict(config_json(description, get_cfg(), {}))
    theirs = transformers.TimesformerForVideoClassification(config)
    theirs.load_state_dict(to_huggingface(state, description))
    return ours.to(device), theirs.to(device)


def largest_difference(ours: nn.Module, theirs: nn.Module, clip: Tensor) -> float:
    return (logits_of(ours.eval(), clip) - logits_of(theirs.eval(), clip)).abs().max().item()


def time_in_pairs(
    first: Callable[[], None], second: Callable[[], None], rounds: int, device: torch.device
) -> list[tuple[float, float]]:
    """Seconds of each, run in turn (first, second, first, ...) so that a drift of the machine meets both alike."""
    seconds_of(first, device), seconds_of(second, device)
    return [(seconds_of(first, device), seconds_of(second, device)) for _ in range(rounds)]
