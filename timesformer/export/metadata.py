"""The metadata of an exported model."""

from pathlib import Path
from typing import Any, Literal

import torch

import timesformer
from timesformer.config.sources import ZOO
from timesformer.datasets.transforms.sampling import build_sampler
from timesformer.engine.calibration import KEY as TEMPERATURES
from timesformer.export.program import INPUT, OUTPUT
from timesformer.inference.classifier import Classifier
from timesformer.models.complexity import count_parameters

Precision = Literal["float32", "float16", "int8"]


def make_metadata(
    classifier: Classifier, precision: Precision, dynamic_batch: bool, license_name: str = ""
) -> dict[str, Any]:
    """Everything that a program needs to use the exported model, in types of JSON; see docs/deployment.md.

    The license is `license_name`, else that of the released weights that the model is or was trained from, else "".
    """
    cfg, side = classifier.cfg, classifier.cfg.DATA.TEST_CROP_SIZE
    batch = None if dynamic_batch else 1
    return {
        "input": {
            "name": INPUT,
            "dtype": "uint8",
            "shape": [batch, 3, cfg.DATA.NUM_FRAMES, side, side],
            "channels": "bgr" if cfg.DATA.REVERSE_INPUT_CHANNEL else "rgb",
        },
        "output": {"name": OUTPUT, "dtype": "float32", "shape": [batch, len(classifier.class_names)]},
        "class_names": list(classifier.class_names),
        "model": cfg.MODEL.MODEL_NAME,
        "parameters": count_parameters(classifier.model),
        "precision": precision,
        "frames": cfg.DATA.NUM_FRAMES,
        "clip_seconds": classifier.clip_seconds,
        "sampling": {
            "sampler": build_sampler(cfg, "test").name,
            "rate": cfg.DATA.SAMPLING_RATE,
            "target_fps": cfg.DATA.TARGET_FPS,
            "views": cfg.TEST.NUM_ENSEMBLE_VIEWS,
            "crops": cfg.TEST.NUM_SPATIAL_CROPS,
        },
        "crop": side,
        "mean": list(cfg.DATA.MEAN),
        "std": list(cfg.DATA.STD),
        "temperature": classifier.temperature(cfg),
        "license": license_name or _license_of(str(classifier.path), cfg.TIMESFORMER.PRETRAINED_MODEL),
        "source": {"checkpoint": Path(classifier.path).name, "fingerprint": classifier.fingerprint()},
        "versions": {"timesformer": timesformer.__version__, "torch": torch.__version__},
        "cfg": cfg.dump(),
        TEMPERATURES: [entry._asdict() for entry in classifier.temperatures],
    }


def _license_of(*sources: str) -> str:
    models = (ZOO.get(source.removeprefix("zoo:")) for source in sources if source.startswith("zoo:"))
    return next((model.license for model in models if model), "")
