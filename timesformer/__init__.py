"""Video action recognition with transformers: TimeSformer and its relatives."""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

if sys.platform == "darwin":  # PyTorch reads it when it is imported
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

if TYPE_CHECKING:
    from timesformer.commands.in_python import train
    from timesformer.config.load import ConfigError, load_config
    from timesformer.config.shipped import list_configs
    from timesformer.config.sources import list_models
    from timesformer.datasets.decoding.base import VideoError
    from timesformer.datasets.decoding.memory import Frames
    from timesformer.datasets.decoding.open import open_video
    from timesformer.errors import UserError
    from timesformer.inference.classifier import Classifier, load_model
    from timesformer.inference.prediction import Prediction
    from timesformer.localization.timeline import Timeline, find_actions
    from timesformer.models.weights.files import CheckpointError
    from timesformer.streaming.live import Stream
    from timesformer.visualization.attention import attention_of, overlay

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Classifier",
    "ConfigError",
    "Frames",
    "Prediction",
    "Stream",
    "Timeline",
    "UserError",
    "VideoError",
    "__version__",
    "attention_of",
    "find_actions",
    "list_configs",
    "list_models",
    "load_config",
    "load_model",
    "open_video",
    "overlay",
    "train",
]

_MODULES = {
    "CheckpointError": "models.weights.files",
    "Classifier": "inference.classifier",
    "ConfigError": "config.load",
    "Frames": "datasets.decoding.memory",
    "Prediction": "inference.prediction",
    "Stream": "streaming.live",
    "Timeline": "localization.timeline",
    "UserError": "errors",
    "VideoError": "datasets.decoding.base",
    "attention_of": "visualization.attention",
    "find_actions": "localization.timeline",
    "list_configs": "config.shipped",
    "list_models": "config.sources",
    "load_config": "config.load",
    "load_model": "inference.classifier",
    "open_video": "datasets.decoding.open",
    "overlay": "visualization.attention",
    "train": "commands.in_python",
}


def __getattr__(name: str) -> object:
    # Imported when it is asked for: whatever imports a part of the package would else import torch and all models.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return list(__all__)
