"""Knowledge distillation: a student is trained to give the outputs of a trained model, its teacher."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.config.load import load_for_use
from timesformer.datasets.transforms.spatial import resize, tensor_normalize
from timesformer.engine.evaluate import build_from_checkpoint
from timesformer.errors import UserError, shorten
from timesformer.models.blocks import Block
from timesformer.models.weights.loading import Checkpoint, fingerprint, read_checkpoint
from timesformer.models.weights.trained_split import warn_of_split
from timesformer.runtime.device import autocast

logger = logging.getLogger(__name__)


class Teacher:
    """The model DISTILL.TEACHER, in evaluation mode and without gradients.

    Its clips are those of the student in its own size, number of frames (the nearest ones) and normalization. Its
    outputs are in the order of `class_names`. Raises UserError if it is not a checkpoint of these classes with a
    configuration.
    """

    def __init__(self, cfg: CfgNode, class_names: Sequence[str], device: torch.device) -> None:
        self._student, self._device = cfg, device
        checkpoint = read_checkpoint(cfg.DISTILL.TEACHER)
        saved = checkpoint.rest.get("cfg")
        if not isinstance(saved, str):
            raise UserError(
                f"DISTILL.TEACHER {checkpoint.source} holds no configuration, expected a checkpoint of a training"
            )
        self.cfg, notes = load_for_use(saved, f"configuration in {checkpoint.source}")
        self._order = _class_order(checkpoint, self.cfg.MODEL.NUM_CLASSES, class_names)
        model, _ = build_from_checkpoint(self.cfg, checkpoint)
        self.fingerprint = fingerprint(model, class_names)
        self.model = model.to(device).eval().requires_grad_(False)
        warn_of_split(cfg, f"DISTILL.TEACHER {checkpoint.source}", checkpoint.rest)
        logger.info("teacher: %s, %s%s", self.cfg.MODEL.MODEL_NAME, checkpoint.source, "".join(f"; {n}" for n in notes))

    @torch.no_grad()
    def logits(self, clips: Tensor) -> Tensor:
        """Logits, float32 [batch, classes], of the student's normalized clips, float [batch, 3, T, H, W]."""
        with autocast(self._student, self._device):
            return self.model(self._own_clips(clips)).float()[:, self._order]

    def _own_clips(self, clips: Tensor) -> Tensor:
        own, other = self.cfg.DATA, self._student.DATA
        if own.REVERSE_INPUT_CHANNEL != other.REVERSE_INPUT_CHANNEL:
            clips, mean, std = clips.flip(1), other.MEAN[::-1], other.STD[::-1]
        else:
            mean, std = other.MEAN, other.STD
        if clips.shape[2] != own.NUM_FRAMES:
            nearest = torch.linspace(0, clips.shape[2] - 1, own.NUM_FRAMES, device=clips.device).round().long()
            clips = clips[:, :, nearest]
        size = (own.TRAIN_CROP_SIZE, own.TRAIN_CROP_SIZE)
        if clips.shape[-2:] != size:
            clips = resize(clips.flatten(0, 1), size).unflatten(0, clips.shape[:2])
        if (list(mean), list(std)) == (own.MEAN, own.STD):
            return clips
        # (x * std + mean - own mean) / own std
        shift = [(there - here) / scale for here, there, scale in zip(mean, own.MEAN, std, strict=True)]
        return tensor_normalize(clips, shift, [there / here for here, there in zip(std, own.STD, strict=True)])


def _class_order(checkpoint: Checkpoint, outputs: int, class_names: Sequence[str]) -> list[int]:
    """The teacher's output of each class; in the same order if its checkpoint has no class names."""
    names = list(map(str, checkpoint.metadata.class_names)) or list(class_names)
    if len(names) != outputs or sorted(names) != sorted(class_names):
        raise UserError(
            f"DISTILL.TEACHER {checkpoint.source} has {outputs} classes ({shorten(names)}), expected the "
            f"{len(class_names)} of the data ({shorten(class_names)}): train the teacher on the same classes"
        )
    return [names.index(name) for name in class_names]


class Distillation:
    """The loss of knowledge distillation (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).

    The loss of a clip is (1 - w) L + w T^2 KL(p_T || q_T) + v F. L is the loss of its label; p_T and q_T are the
    probabilities of teacher and student at temperature T; w is DISTILL.WEIGHT, T DISTILL.TEMPERATURE and v
    DISTILL.FEATURE_WEIGHT. F is the mean of 1 - cosine similarity over the pairs of blocks DISTILL.FEATURES: of the
    mean tokens of a clip behind a block of the student, after a linear projection as in FitNets (Romero et al. 2015,
    https://arxiv.org/abs/1412.6550), and behind a block of the teacher. A mixed clip (MIXUP) is one clip to both.

    Where clips do not change between epochs (DATA.DRAW_ONCE without mixing), the teacher sees each clip once.
    """

    def __init__(self, cfg: CfgNode, student: nn.Module, class_names: Sequence[str], device: torch.device) -> None:
        self._options = cfg.DISTILL
        self.teacher = Teacher(cfg, class_names, device)
        self._logits: dict[int, Tensor] | None = None
        if cfg.DATA.DRAW_ONCE and not (cfg.MIXUP.ENABLED or cfg.DISTILL.FEATURES):
            # Oversampling repeats a clip with other frames.
            self._logits = {} if cfg.DATA.BALANCE != "oversample" else None
        pairs = [tuple(map(int, pair.split(":"))) for pair in cfg.DISTILL.FEATURES]
        self._student_blocks = _inputs_after(student, [pair[0] for pair in pairs], "the student")
        self._teacher_blocks = _inputs_after(self.teacher.model, [pair[1] for pair in pairs], "the teacher")
        self._recorded: list[Tensor] = []
        widths = [
            (ours.normalized_shape[0], theirs.normalized_shape[0])
            for ours, theirs in zip(self._student_blocks, self._teacher_blocks, strict=True)
        ]
        self.projections = nn.ModuleList(nn.Linear(*width) for width in widths).to(device)

    def forward(self, student: Callable[[Tensor], Tensor], clips: Tensor) -> Tensor:
        """Logits of the student, whose features are recorded for `losses`."""
        with _record(self._student_blocks, len(clips)) as found:
            logits = student(clips)
        pairs = zip(self.projections, found, strict=True)
        self._recorded = [projection(features) for projection, features in pairs]
        return logits

    def losses(self, hard: Tensor, logits: Tensor, clips: Tensor, videos: Tensor) -> Tensor:
        """Losses [batch], float32, of a batch.

        Args:
            hard: losses of the labels, [batch].
            logits: of the student, [batch, classes].
            clips: normalized clips, [batch, 3, frames, height, width].
            videos: numbers of their records, int64 [batch].
        """
        options = self._options
        with _record(self._teacher_blocks, len(clips)) as found:
            target = self._teacher_logits(clips, videos)
        probabilities = (target / options.TEMPERATURE).softmax(dim=1)
        log_probabilities = (logits.float() / options.TEMPERATURE).log_softmax(dim=1)
        soft = F.kl_div(log_probabilities, probabilities, reduction="none").sum(dim=1) * options.TEMPERATURE**2
        losses = (1 - options.WEIGHT) * hard + options.WEIGHT * soft
        if found:
            pairs = zip(self._recorded, found, strict=True)
            similarities = [F.cosine_similarity(ours.float(), theirs.float()) for ours, theirs in pairs]
            losses = losses + options.FEATURE_WEIGHT * (1 - torch.stack(similarities)).mean(dim=0)
        return losses

    def _teacher_logits(self, clips: Tensor, videos: Tensor) -> Tensor:
        if self._logits is None:
            return self.teacher.logits(clips)
        numbers = videos.tolist()
        new = [row for row, number in enumerate(numbers) if number not in self._logits]
        if new:
            logits = self.teacher.logits(clips[new])
            self._logits.update(zip((numbers[row] for row in new), logits, strict=True))
        return torch.stack([self._logits[number] for number in numbers])

    def state_dict(self) -> dict[str, Any]:
        return {"teacher": self.teacher.fingerprint, "projections": self.projections.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the projections; ValueError if the teacher has other weights."""
        if state["teacher"] != self.teacher.fingerprint:
            raise ValueError("DISTILL.TEACHER has other weights than at the start of the run")
        self.projections.load_state_dict(state["projections"])


def _inputs_after(model: nn.Module, numbers: Sequence[int], who: str) -> list[nn.Module]:
    """The first norm behind each block, counted from 1: its input is the output of the block, with all tokens."""
    if not numbers:
        return []
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if not blocks:
        raise UserError(f"DISTILL.FEATURES is set, but {who} has no blocks of this project; set it to []")
    for number in numbers:
        if not 1 <= number < len(blocks):
            raise UserError(f"DISTILL.FEATURES has block {number} of {who}, expected 1 to {len(blocks) - 1}")
    following = [blocks[number] for number in numbers]
    is_divided = [hasattr(block, "temporal_fc") for block in following]  # whose temporal attention is first
    return [block.temporal_norm1 if first else block.norm1 for block, first in zip(following, is_divided, strict=True)]


@contextmanager
def _record(layers: Sequence[nn.Module], batch: int) -> Iterator[list[Tensor]]:
    """Records the mean token of each clip, [batch, dim], that each layer reads in a forward pass, in their order."""
    found: list[Tensor] = []
    tokens: dict[int, Tensor] = {}

    def record(number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            tokens[number] = inputs[0].reshape(batch, -1, inputs[0].shape[-1]).mean(dim=1)

        return hook

    hooks = [layer.register_forward_pre_hook(record(number)) for number, layer in enumerate(layers)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
    found += [tokens[number] for number in range(len(layers))]
