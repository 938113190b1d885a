"""The model that a test scored, with the options of the test."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from timesformer.errors import UserError
from timesformer.inference.classifier import Classifier, load_model


def load_tested(
    results: dict[str, Any], checkpoint: str | Path | None = None, device: str | None = None, opts: Sequence[str] = ()
) -> Classifier:
    """The tested model with the options of its test.

    Args:
        results: content of results.json.
        checkpoint: if it was moved since.
        device: see `load_model`.
        opts: KEY VALUE KEY VALUE ..., such as DATA.PATH_TO_DATA_DIR if the data were moved.

    Raises UserError if the checkpoint is missing or has other weights than those tested, and as `load_model`.
    """
    path = str(checkpoint or results["checkpoint"])
    if checkpoint is None and not Path(path).exists():
        raise UserError(f"{path}, which was tested, is missing: give its new place with --checkpoint")
    classifier = load_model(path, device, opts, saved=yaml.safe_dump(results["config"]))
    classifier.class_names = tuple(results["class_names"])
    if results.get("weights") not in (None, classifier.fingerprint()):
        raise UserError(f"{path} has other weights than those tested: give the tested checkpoint, or test it again")
    return classifier
