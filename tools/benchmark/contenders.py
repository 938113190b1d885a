"""TimeSformer as computed by this project, by the original and by Hugging Face."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timesformer.config import get_cfg
from timesformer.engine.model_wrappers import checkpoint_activations
from timesformer.models.vit import TimeSformer
from timesformer.models.weights.formats import CheckpointMetadata, describe, to_huggingface
from timesformer.models.weights.huggingface import config_json
from timesformer.torchvision_import import import_package
from tools.benchmark.original import OriginalTimeSformer

ORIGINAL, HUGGING_FACE, OURS = "the original's way", "Hugging Face", "this project"


@dataclass(frozen=True)
class Size:
    """Size of clips (crop: side in pixels) and of the model; the base model by default."""

    batch_size: int
    frames: int
    crop: int
    width: int = 768
    depth: int = 12
    heads: int = 12
    attention_type: str = "divided_space_time"

    def __str__(self) -> str:
        return f"{self.batch_size} x {self.frames} frames x {self.crop} px"


@dataclass(frozen=True)
class Contender:
    """An implementation and its settings: precision "fp32" or "bf16"; recompute as MODEL.ACT_CHECKPOINT."""

    implementation: str
    precision: str = "fp32"
    compiled: bool = False
    recompute: str = "none"

    def __str__(self) -> str:
        settings = ["compiled"] * self.compiled + [f"recomputing {self.recompute}"] * (self.recompute != "none")
        return ", ".join([self.implementation, self.precision, *settings])

    def prepare(self, models: Mapping[str, nn.Module], clip: Tensor, training: bool) -> Callable[[], None]:
        """A function that runs one training step, or one forward pass."""
        model = models[self.implementation]
        if self.recompute != "none":  # on a copy, since it cannot be undone
            model = copy.deepcopy(model)
            checkpoint_activations(model, self.recompute)
        if self.compiled:
            model = torch.compile(model, dynamic=False)
        return (training_step if training else forward_pass)(model, clip, self.precision)


def build_models(size: Size, device: torch.device) -> dict[str, nn.Module]:
    """Models by implementation, each with its own copy of the same random weights; the original's if divided.

    Raises:
        UserError: if transformers is not installed.
    """
    transformers = import_package("transformers", "the comparison")
    torch.manual_seed(0)
    sizes = {"embed_dim": size.width, "depth": size.depth, "num_heads": size.heads}
    ours = TimeSformer(size.crop, 16, 400, size.frames, size.attention_type, drop_path_rate=0.0, **sizes)
    with torch.no_grad():
        for parameter in ours.parameters():  # no zeros, which would hide part of the computation from comparisons
            parameter.add_(torch.randn_like(parameter) * 0.02)
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


def forward_pass(model: nn.Module, clip: Tensor, precision: str = "fp32") -> Callable[[], None]:
    """A function that runs a forward pass in evaluation mode."""

    def run() -> None:
        model.eval()
        with torch.inference_mode(), autocast(clip, precision):
            logits_of(model, clip)

    return run


def training_step(model: nn.Module, clip: Tensor, precision: str = "fp32") -> Callable[[], None]:
    """A function that runs a step of SGD with momentum: forward, cross entropy, backward, update."""
    labels = torch.zeros(len(clip), dtype=torch.long, device=clip.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def run() -> None:
        model.train()
        with autocast(clip, precision):
            logits = logits_of(model, clip)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def autocast(clip: Tensor, precision: str) -> torch.autocast:
    """The context for forward passes in "fp32" or "bf16"."""
    return torch.autocast(clip.device.type, torch.bfloat16, enabled=precision == "bf16")


def logits_of(model: nn.Module, clip: Tensor) -> Tensor:
    """Logits for clips [batch, channels, frames, height, width], also of Hugging Face's models."""
    return model(clip.transpose(1, 2)).logits if hasattr(model, "config") else model(clip)


@torch.no_grad()
def largest_difference(first: nn.Module, second: nn.Module, clip: Tensor) -> float:
    """Largest absolute difference of the logits of two models."""
    return (logits_of(first.eval(), clip) - logits_of(second.eval(), clip)).abs().max().item()
