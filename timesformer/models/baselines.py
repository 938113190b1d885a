"""Baselines: torchvision's video models, and timm's image models over the frames of a clip, behind one interface.

Nothing of either library is copied: a model is built by its library under its own names, so that the library's weights
fit, and stands as `.model` in an adapter from clips to logits. Both libraries are imported when asked for, not before.
"""

import logging
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.errors import UserError
from timesformer.torchvision_import import import_package

logger = logging.getLogger(__name__)


class Baseline(nn.Module):
    """A network of another library as `.model`, from clips [batch, 3, frames, height, width] to [batch, classes].

    Attributes:
        head_names: names of the layers within `.model` that give the logits.
        made_for: the input that the library made the network for, in words.
        colours: mean and standard deviation that its weights expect; DATA.MEAN and DATA.STD.
    """

    head_names: tuple[str, ...]
    made_for: str
    colours: tuple[tuple[float, ...], tuple[float, ...]]

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Clips (float, normalised) to logits."""
        return self.model(x)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Baseline":
        """The network that MODEL.MODEL_NAME names, of the size of DATA.TRAIN_CROP_SIZE where it has a fixed one.

        Raises:
            UserError: if the library is missing or has no such model, if it cannot take the clips of DATA.*, or if its
                weights (MODEL.PRETRAINED) cannot be had.
        """
        name = cfg.MODEL.MODEL_NAME.partition("/")[2]
        size, pretrained = cfg.DATA.TRAIN_CROP_SIZE, cfg.MODEL.PRETRAINED
        # On the meta device a model is only counted: there is nothing that weights could fill.
        pretrained = pretrained and torch.get_default_device().type != "meta"
        model = cls(name, cfg.MODEL.NUM_CLASSES, cfg.MODEL.DROPOUT_RATE, pretrained, size)
        for key in ("TRAIN_CROP_SIZE", "TEST_CROP_SIZE"):
            model.check_input(cfg.DATA.NUM_FRAMES, cfg.DATA[key], f"DATA.NUM_FRAMES, DATA.{key}")
        if pretrained:
            logger.info("%s begins with its library's weights", model.name)
            if (tuple(cfg.DATA.MEAN), tuple(cfg.DATA.STD)) != model.colours:
                logger.warning("these weights expect DATA.MEAN %s and DATA.STD %s", *map(list, model.colours))
        return model

    def check_input(self, frames: int, size: int, keys: str) -> None:
        """Raises UserError, naming `keys`, if a clip of so many frames and pixels does not go through.

        Nothing is computed: shapes alone pass through the network, on the meta device.
        """
        tensors = {name: t.to("meta") for name, t in [*self.named_parameters(), *self.named_buffers()]}
        training = self.training
        try:
            with torch.no_grad():
                clip = torch.zeros(1, 3, frames, size, size, device="meta")
                torch.func.functional_call(self.eval(), tensors, (clip,))
        except NotImplementedError:  # an operation that the meta device does not know says nothing about the clip
            pass
        except Exception as error:  # each network fails in a way of its own
            raise UserError(
                f"{self.name} cannot take clips of {frames} frames of {size}x{size} pixels ({keys}): "
                f"{_one_line(error)}. It is made for {self.made_for}"
            ) from error
        finally:
            self.train(training)


class TorchvisionModel(Baseline):
    """A video model of torchvision, such as r3d_18, r2plus1d_18, s3d, mvit_v2_s or swin3d_t.

    Args:
        name: as torchvision has it.
        num_classes: outputs of the head.
        dropout: dropout before the head.
        pretrained: begin with torchvision's Kinetics-400 weights, downloaded into torch's cache; the head stays fresh
            unless there are 400 classes.
        size: not used; the networks that have a fixed size have no other.

    Raises:
        UserError: if torchvision is missing, has no such model, or the weights cannot be had.
    """

    def __init__(
        self, name: str, num_classes: int, dropout: float = 0.0, pretrained: bool = False, size: int = 224
    ) -> None:
        super().__init__(f"torchvision/{name}")
        models = import_package("torchvision.models", f"MODEL.MODEL_NAME {self.name}")
        if name not in (known := models.list_models(module=models.video)):
            raise _unknown(self.name, name, known, f"; it has {', '.join(known)}")
        self.model = models.get_model(name, weights=None, num_classes=num_classes)
        self.head_names = ([n for n, m in self.model.named_modules() if isinstance(m, nn.Linear | nn.Conv3d)][-1],)
        self._drop_before_head(dropout)
        weights = models.get_model_weights(name).DEFAULT
        preset = weights.transforms()
        side, frames = preset.crop_size[0], weights.meta.get("min_temporal_size", 16)
        self.made_for = f"{frames} frames of {side}x{side} pixels"
        self.colours = (tuple(preset.mean), tuple(preset.std))
        if pretrained:
            state = _fetch(self.name, lambda: weights.get_state_dict(progress=False, check_hash=True))
            fresh = self.model.state_dict()
            head = {n: value for n, value in fresh.items() if n.startswith(self.head_names)}
            self.model.load_state_dict(state | {n: v for n, v in head.items() if v.shape != state[n].shape})

    def _drop_before_head(self, rate: float) -> None:
        """Sets the dropout that stands before the head, or adds one without changing the names of the weights."""
        parent = self.head_names[0].rpartition(".")[0]
        before = self.model.get_submodule(parent)[0] if parent else None
        if isinstance(before, nn.Dropout):
            before.p = rate
        elif rate > 0:
            self.model.get_submodule(self.head_names[0]).register_forward_pre_hook(
                lambda layer, inputs: (F.dropout(inputs[0], rate, layer.training),)
            )


class TimmModel(Baseline):
    """An image model of timm applied to every frame, logits averaged over the frames: it knows nothing of their order.

    Args:
        name: as timm has it, such as "resnet18" or "vit_small_patch16_224.augreg_in21k"; what follows the dot chooses
            among its weights.
        num_classes: outputs of the head.
        dropout: dropout before the head.
        pretrained: begin with timm's weights, downloaded into the cache of huggingface_hub; the head stays fresh unless
            there are as many classes.
        size: side of a frame in pixels, for networks that are built for one size.

    Raises:
        UserError: if timm is missing, has no such model, or the weights cannot be had.
    """

    def __init__(
        self, name: str, num_classes: int, dropout: float = 0.0, pretrained: bool = False, size: int = 224
    ) -> None:
        super().__init__(f"timm/{name}")
        timm = import_package("timm", f"MODEL.MODEL_NAME {self.name}")
        architecture, _, weights = name.partition(".")
        if not timm.is_model(architecture):
            raise _unknown(self.name, architecture, timm.list_models(), "")
        if weights and name not in (known := timm.list_pretrained(f"{architecture}.*")):
            raise _unknown(self.name, name, known, f"; it has {', '.join([architecture, *known])}")
        description = timm.get_pretrained_cfg(name)
        options: dict[str, Any] = {"num_classes": num_classes}
        if description is not None and description.fixed_input_size:
            options["img_size"] = size
        if dropout > 0:
            options["drop_rate"] = dropout
        if pretrained:
            self.model = _fetch(self.name, lambda: timm.create_model(name, pretrained=True, **options))
        else:
            self.model = timm.create_model(name, **options)
        described = self.model.pretrained_cfg
        heads = described["classifier"]
        self.head_names = (heads,) if isinstance(heads, str) else tuple(heads)
        self.made_for = "frames of {1}x{2} pixels".format(*described["input_size"])
        self.colours = (tuple(described["mean"]), tuple(described["std"]))

    def forward(self, x: Tensor) -> Tensor:
        batch, _, frames = x.shape[:3]
        logits = self.model(x.transpose(1, 2).flatten(0, 1))  # [batch * frames, classes]
        return logits.unflatten(0, (batch, frames)).mean(dim=1)


BASELINES: dict[str, type[Baseline]] = {"torchvision": TorchvisionModel, "timm": TimmModel}
"""Adapters by what stands before the slash in MODEL.MODEL_NAME."""


def _unknown(asked: str, name: str, known: list[str], all_of_them: str) -> UserError:
    near = get_close_matches(name, known, n=1)
    hint = f"; the nearest is {near[0]}" if near else ""
    return UserError(f"MODEL.MODEL_NAME is {asked}, but its library has no such model{hint}{all_of_them}")


def _fetch(name: str, fetch: Callable[[], Any]) -> Any:
    try:
        return fetch()
    except Exception as error:  # each library, and what it downloads with, has errors of its own
        raise UserError(
            f"the weights of {name} (MODEL.PRETRAINED True) cannot be had: {_one_line(error)}. Without a network, give "
            "a file with them as TRAIN.CHECKPOINT_FILE_PATH, with TRAIN.FINETUNE True and MODEL.PRETRAINED False; or "
            "build the model once where there is one, and copy the cache (~/.cache/torch, ~/.cache/huggingface)"
        ) from error


def _one_line(error: Exception, limit: int = 200) -> str:
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= limit else f"{text[:limit]} ..."
