"""Importing torchvision, and packages that import it, with a torch of another build.

PyPI's torchvision belongs to the CUDA build of torch. With a CPU build, `import torchvision` fails with "operator
torchvision::nms does not exist", and so do timm and parts of transformers. Declaring the missing operators is enough
for models, weights and transforms, which do not use them.
"""

import importlib
import importlib.util
import logging
import sys
from types import ModuleType

import torch

from timesformer.errors import UserError

logger = logging.getLogger(__name__)

_declared: list[torch.library.Library] = []  # a library's operators disappear with it


def import_package(name: str, needed_by: str) -> ModuleType:
    """Imports the module `name` of torchvision, timm or transformers.

    Raises UserError, with `needed_by` (an option and its value, or a few words), if it is not installed.
    """
    try:
        repair_torchvision()
        return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or name).split(".")[0]
        raise UserError(f"{needed_by} needs {name.split('.')[0]} ({error}); pip install {missing}") from error


def repair_torchvision() -> None:
    """Imports torchvision if it is installed, and declares the operators that its build lacks."""
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
        logger.debug("torchvision belongs to another build of torch: its models work, its compiled operators do not")
