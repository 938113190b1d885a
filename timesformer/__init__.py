"""Video action recognition with transformers: TimeSformer and its relatives."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timesformer.datasets.decoding.open import Frames as Frames

__version__ = "0.1.0"

_MODULES = {
    "Frames": "timesformer.datasets.decoding.open",
    "load_model": "timesformer.inference.classifier",
}


def __getattr__(name: str) -> object:
    # Imported when it is asked for: whatever imports a part of the package would else import torch and all models.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
