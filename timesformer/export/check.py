"""Comparing an exported model with the original: logits, predicted classes, accuracy, size and speed."""

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from timesformer.atomic import write_text_atomically
from timesformer.errors import UserError, counted
from timesformer.export.clips import ClipSet
from timesformer.export.processor import describe_processor
from timesformer.inference.classifier import Classifier
from timesformer.models.complexity import count_parameters
from timesformer.models.weights.exported import files_of

CHECKS = "export.json"
"""The file with the results of all checks of a folder, by the name of the exported model."""
BATCH = 8


@dataclass(frozen=True)
class Check:
    """An exported model compared with the original."""

    clips: int  # number of clips
    clips_from: str  # their folder, or "generated"
    largest_difference: float  # of a logit
    largest_logit: float  # of the original, without sign
    top1_agreement: float  # percent of clips with the same predicted class
    accuracy: float | None  # percent; None if the classes of the clips are unknown
    original_accuracy: float | None
    bytes: int  # of the exported files
    float32_bytes: int  # of the original's parameters
    seconds_per_clip: float  # median, one clip at a time
    original_seconds_per_clip: float  # the same in PyTorch; both were measured in alternation
    original_device: str  # of the original; exported models use the CPU
    threads: int
    processor: str  # and its instruction sets

    @property
    def drop(self) -> float:
        """The accuracy lost in points; without classes, percent of clips with another predicted class."""
        if self.accuracy is None or self.original_accuracy is None:
            return 100 - self.top1_agreement
        return self.original_accuracy - self.accuracy

    def lines(self) -> list[str]:
        """The results as lines of text."""
        lines = [
            f"clips               {self.clips} ({self.clips_from})",
            f"largest difference  {self.largest_difference:.2g} of a logit, logits up to {self.largest_logit:.3g}",
            f"top-1 agreement     {self.top1_agreement:.2f} %",
        ]
        if self.accuracy is not None:
            lines.append(f"top-1 accuracy      {self.accuracy:.2f} %, PyTorch {self.original_accuracy:.2f} %")
        share, faster = self.bytes / self.float32_bytes, self.original_seconds_per_clip / self.seconds_per_clip
        on_device = "" if self.original_device == "cpu" else f" on {self.original_device}"
        return [
            *lines,
            f"size                {self.bytes / 1e6:.1f} MB, {100 * share:.0f} % of the weights in float32",
            f"seconds per clip    {self.seconds_per_clip:.4g}, PyTorch {self.original_seconds_per_clip:.4g}{on_device} "
            f"({faster:.2f} x as fast; {counted(self.threads, 'thread')}, {self.processor})",
        ]


def logits_of_clips(classifier: Classifier, clips: ClipSet) -> np.ndarray:
    """Logits, float32 [clips, classes]."""
    return torch.cat([classifier.compute(part)[0] for part in clips.clips.split(BATCH)]).numpy()


def compare(original: Classifier, exported: Classifier, path: Path, clips: ClipSet, rounds: int) -> Check:
    """Compares both on the clips; for the time, `rounds` clips are computed with each, in alternation, one by one."""
    expected, found = logits_of_clips(original, clips), logits_of_clips(exported, clips)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        clip = clips.clips[number % len(clips)][None]
        for classifier, measured in zip((original, exported), times, strict=True):
            start = time.perf_counter()
            classifier.compute(clip)
            measured.append(time.perf_counter() - start)
    return Check(
        clips=len(clips),
        clips_from=clips.source,
        largest_difference=float(np.abs(found - expected).max()),
        largest_logit=float(np.abs(expected).max()),
        top1_agreement=100 * float((found.argmax(1) == expected.argmax(1)).mean()),
        accuracy=_accuracy(found, clips),
        original_accuracy=_accuracy(expected, clips),
        bytes=sum(file.stat().st_size for file in files_of(path)),
        float32_bytes=4 * count_parameters(original.model),
        seconds_per_clip=median(times[1]),
        original_seconds_per_clip=median(times[0]),
        original_device=str(original.device),
        threads=torch.get_num_threads(),
        processor=describe_processor(),
    )


def save_check(path: Path, check: Check, details: dict[str, Any]) -> Path:
    """Adds the check of the exported model `path`, with `details`, to export.json in its folder; returns its path.

    Raises UserError as `read_checks`.
    """
    file, checks = path.with_name(CHECKS), read_checks(path)
    checks[path.name] = details | asdict(check)
    write_text_atomically(file, json.dumps(checks, indent=2, ensure_ascii=False) + "\n")
    return file


def read_checks(path: Path) -> dict[str, Any]:
    """The checks in the folder of the exported model `path` by name; UserError if export.json is another file."""
    file, checks = path.with_name(CHECKS), None
    if not file.exists():
        return {}
    with suppress(OSError, ValueError):
        checks = json.loads(file.read_text(encoding="utf-8"))
    is_valid = isinstance(checks, dict) and all(isinstance(entry, dict) for entry in checks.values())
    if not is_valid or not all("top1_agreement" in entry for entry in checks.values()):
        raise UserError(f"{file} was not written by `timesformer export`: move it, or choose another --output")
    return checks


def _accuracy(logits: np.ndarray, clips: ClipSet) -> float | None:
    return None if clips.labels is None else 100 * float((logits.argmax(1) == clips.labels).mean())
