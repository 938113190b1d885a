"""Importing torchvision, and the packages that import it, beside a torch of another build.

The wheels of torchvision on PyPI belong to the CUDA build of torch. Beside a CPU build their compiled operators cannot
be loaded, and `import torchvision` ends in "operator torchvision::nms does not exist"; with it fail timm, torchmetrics
and the vision models of transformers. What is needed of them here (models, weights, transforms) uses none of these
operators, so declaring the missing ones is enough. Whatever needs one of these packages imports it by `import_package`.
"""

import importlib
import importlib.util
import logging
import sys
from types import ModuleType

import torch

from timesformer.errors import UserError

logger = logging.getLogger(__name__)

_declared: list[torch.library.Library] = []  # kept alive: a library's operators vanish with it


def import_package(name: str, needed_by: str) -> ModuleType:
    """Imports a module of torchvision, or of a package that may import torchvision (timm, transformers).

    Args:
        name: of the module, dots allowed.
        needed_by: what asks for it, for the message: an option with its value, or a few words.

    Raises:
        UserError: if it is not installed.
    """
    try:
        repair_torchvision()
        return importlib.import_module(name)
    except ImportError as error:
        package, missing = name.split(".")[0], (error.name or name).split(".")[0]
        raise UserError(
            f"{needed_by} needs the package {package}, which cannot be imported ({error}); pip install {missing}, "
            "in the version that goes with the torch that is installed"
        ) from error


def repair_torchvision() -> None:
    """Imports torchvision if it is installed, declaring the operators it lacks beside a torch of another build."""
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        for module in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        importlib.import_module("torchvision")
        logger.info("torchvision belongs to another build of torch: its models work, its compiled operators do not")
