"""int8: which layers stay in float is decided by the measured agreement with the original model."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from timesformer.errors import counted
from timesformer.export.clips import ClipSet
from timesformer.models.weights.exported import Compute

AGREEMENT = 99.5
"""Percent of the calibration clips that must keep their predicted class."""
ERROR = 0.1
"""Largest relative error of the logits, see `Trial`."""


class Quantized(NamedTuple):
    """A quantized model that is not saved yet."""

    compute: Compute
    save: Callable[[dict[str, Any]], None]  # writes it with the given metadata


class Quantizer(Protocol):
    """Quantizes a model with one library and method."""

    method: str
    layers: Sequence[str]  # names of the layers that can be quantized

    def quantize(self, float_layers: Collection[str]) -> Quantized:
        """Quantizes the model except for some layers."""


@dataclass(frozen=True)
class Trial:
    """A quantized model compared with the original on the calibration clips."""

    method: str
    float_kinds: tuple[str, ...]  # kinds of layers that stay in float, such as blocks.*.mlp.fc2
    agreement: float  # percent of clips with the same predicted class
    error: float  # norm of the change of the logits, relative to that of the logits without their mean

    @property
    def is_close(self) -> bool:
        return self.agreement >= AGREEMENT and self.error <= ERROR


@dataclass(frozen=True)
class Int8Choice:
    """The chosen trial, and all of them."""

    chosen: Trial
    trials: list[Trial] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The result as lines of text."""
        kinds = ", ".join(self.chosen.float_kinds) or "none"
        lines = [
            f"int8                {self.chosen.method}; layers that stay in float: {kinds}",
            f"calibration clips   top-1 agreement {self.chosen.agreement:.2f} %, error of the logits "
            f"{100 * self.chosen.error:.1f} % ({counted(len(self.trials), 'choice')} measured)",
        ]
        if not self.chosen.is_close:
            lines.append(f"note: no choice agrees on {AGREEMENT:g} % with an error of {100 * ERROR:g} % or less")
        return lines


def choose_layers(
    quantizers: Sequence[Quantizer], expected: np.ndarray, clips: ClipSet
) -> tuple[Quantized, Int8Choice]:
    """Quantizes all layers, and while the logits are not close to `expected` returns kinds of layers to float.

    The kinds are ordered by how much the error shrinks if they alone stay in float. The next quantizer is tried if
    one gives no close logits. The chosen model is the first that is close, else the one with the smallest error.
    """
    trials: list[Trial] = []
    for quantizer in quantizers:
        kinds = tuple(dict.fromkeys(map(layer_kind, quantizer.layers)))

        def attempt(float_kinds: tuple[str, ...], quantizer: Quantizer = quantizer) -> tuple[Quantized, Trial]:
            layers = [layer for layer in quantizer.layers if layer_kind(layer) in float_kinds]
            made = quantizer.quantize(layers)
            trial = measure(quantizer.method, float_kinds, made.compute, expected, clips)
            trials.append(trial)
            return made, trial

        made, trial = attempt(())
        if trial.is_close:
            return made, Int8Choice(trial, trials)
        alone = {kind: attempt((kind,))[1].error for kind in kinds}
        order = sorted(kinds, key=alone.__getitem__)
        for number in range(1, len(kinds)):
            made, trial = attempt(tuple(order[:number]))
            if trial.is_close:
                return made, Int8Choice(trial, trials)
    best = min(trials, key=lambda trial: trial.error)
    quantizer = next(quantizer for quantizer in quantizers if quantizer.method == best.method)
    layers = [layer for layer in quantizer.layers if layer_kind(layer) in best.float_kinds]
    return quantizer.quantize(layers), Int8Choice(best, trials)


def layer_kind(layer: str) -> str:
    """The name of a layer without the number of its block: blocks.*.mlp.fc1."""
    name = layer.partition("#")[0].removeprefix("network.").removeprefix("model.")
    return re.sub(r"\.\d+\.", ".*.", name)


def measure(method: str, float_kinds: tuple[str, ...], compute: Compute, expected: np.ndarray, clips: ClipSet) -> Trial:
    """Compares the logits of a quantized model with those of the original, [clips, classes]."""
    found = np.concatenate([compute(clip[None].numpy()) for clip in clips.clips])
    agreement = 100 * float((found.argmax(1) == expected.argmax(1)).mean())
    centered = expected - expected.mean(axis=1, keepdims=True)
    error = float(np.linalg.norm(found - expected) / max(np.linalg.norm(centered), 1e-12))
    return Trial(method, float_kinds, agreement, error)
