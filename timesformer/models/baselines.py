"""Baselines: torchvision's video models, and timm's image models applied to every frame."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.errors import UserError
from timesformer.models.frames import FrameNetwork
from timesformer.models.heads import LINEAR, ClipNetwork, HeadOptions
from timesformer.models.parts import record_features
from timesformer.models.weights.download import hub_or_cache
from timesformer.models.weights.normalization import warn_of_normalization
from timesformer.torchvision_import import import_package

logger = logging.getLogger(__name__)

torchvision_models = import_package("torchvision.models", "MODEL.MODEL_NAME torchvision/<name>")
timm = import_package("timm", "MODEL.MODEL_NAME timm/<name>")


class Baseline(nn.Module):
    """Another library's network as `.model`, from clips [batch, 3, frames, height, width] to [batch, classes]."""

    head_names: tuple[str, ...]  # of the layers in `.model` that give the logits
    is_traceable = False  # by fvcore, which fails for convolutions on the meta device
    made_for: str  # the input that the network was designed for
    normalization: tuple[tuple[float, ...], tuple[float, ...]]  # DATA.MEAN and DATA.STD of its pretrained weights

    def __init__(self, name: str, dropout: float) -> None:
        super().__init__()
        self.name = name
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Clips (float, normalized) to logits."""
        return self.model(x)

    def head_input(self, x: Tensor) -> Tensor:
        """Clips to what the head reads, see `ClipNetwork`; if it is linear, its average over frames and positions.

        With a linear head, for evaluation mode: dropout may have been applied. UserError if there are several heads.
        """
        if isinstance(self.model, ClipNetwork):
            return self.model.head_input(x)
        self._output_layer()
        with record_features(self) as features:
            self(x)
        return features[-1]

    def forward_head(self, x: Tensor) -> Tensor:
        """The result of `head_input` to logits [batch, classes]."""
        if isinstance(self.model, ClipNetwork):
            return self.model.forward_head(x)
        layer = self._output_layer()
        return F.linear(F.dropout(x, self.dropout, self.training), layer.weight.flatten(1), layer.bias)

    def _output_layer(self) -> nn.Linear | nn.Conv2d | nn.Conv3d:
        layers = [self.model.get_submodule(name) for name in self.head_names]
        if len(layers) > 1 or not isinstance(layers[0], nn.Linear | nn.Conv2d | nn.Conv3d):
            raise UserError(f"the features of {self.name} have no single linear head: choose another MODEL.MODEL_NAME")
        return layers[0]

    @classmethod
    def from_config(cls, cfg: CfgNode, **options: Any) -> "Baseline":
        """The network MODEL.MODEL_NAME; UserError if it is unknown, cannot take the clips or be downloaded."""
        name, size = cfg.MODEL.MODEL_NAME.partition("/")[2], cfg.DATA.TRAIN_CROP_SIZE
        pretrained = cfg.MODEL.PRETRAINED and torch.get_default_device().type != "meta"
        model = cls(name, cfg.MODEL.NUM_CLASSES, cfg.MODEL.DROPOUT_RATE, pretrained, size, **options)
        model.compare(cfg, pretrained)
        return model

    def compare(self, cfg: CfgNode, pretrained: bool) -> None:
        """Raises UserError if the network cannot take the clips; warns if its weights expect another normalization."""
        for key in ("TRAIN_CROP_SIZE", "TEST_CROP_SIZE"):
            self.check_input(cfg.DATA.NUM_FRAMES, cfg.DATA[key], f"DATA.NUM_FRAMES, DATA.{key}")
        if pretrained:
            logger.info("%s starts from its library's weights", self.name)
            warn_of_normalization(cfg, f"{self.name}, MODEL.PRETRAINED", *self.normalization)

    def drop_before_head(self, rate: float) -> None:
        """Applies dropout to the input of the head, without changing the names of the weights."""
        self.model.get_submodule(self.head_names[0]).register_forward_pre_hook(
            lambda layer, inputs: (F.dropout(inputs[0], rate, layer.training),)
        )

    def check_input(self, frames: int, size: int, keys: str) -> None:
        """Raises UserError, naming `keys`, if the network cannot take such a clip. Runs on the meta device."""
        tensors = {name: t.to("meta") for name, t in [*self.named_parameters(), *self.named_buffers()]}
        training = self.training
        try:
            with torch.no_grad():
                clip = torch.zeros(1, 3, frames, size, size, device="meta")
                torch.func.functional_call(self.eval(), tensors, (clip,))
        except NotImplementedError:  # an operation that the meta device lacks
            pass
        except UserError:
            raise
        except Exception as error:  # any kind, depending on the network
            raise self.misfit(frames, size, keys, one_line(error)) from error
        finally:
            self.train(training)

    def misfit(self, frames: int, size: int, keys: str, reason: str) -> UserError:
        clips = f"clips of {frames} frames of {size}x{size} pixels ({keys}): {reason}"
        return UserError(f"{self.name}, made for {self.made_for}, cannot take {clips}")


class TorchvisionModel(Baseline):
    """A video model of torchvision; a `pretrained` one keeps a fresh head unless there are 400 classes."""

    def __init__(
        self, name: str, num_classes: int, dropout: float = 0.0, pretrained: bool = False, size: int = 224
    ) -> None:
        super().__init__(f"torchvision/{name}", dropout)
        known = torchvision_models.list_models(module=torchvision_models.video)
        if name not in known:
            raise _unknown(self.name, name, known)
        self.model = torchvision_models.get_model(name, weights=None, num_classes=num_classes)
        self.head_names = ([n for n, m in self.model.named_modules() if isinstance(m, nn.Linear | nn.Conv3d)][-1],)
        parent = self.head_names[0].rpartition(".")[0]
        before = self.model.get_submodule(parent)[0] if parent else None
        if isinstance(before, nn.Dropout):
            before.p = dropout
        elif dropout > 0:
            self.drop_before_head(dropout)
        weights = torchvision_models.get_model_weights(name).DEFAULT
        preset = weights.transforms()
        side, frames = preset.crop_size[0], weights.meta.get("min_temporal_size", 16)
        self.made_for = f"{frames} frames of {side}x{side} pixels"
        self.normalization = (tuple(preset.mean), tuple(preset.std))
        if pretrained:
            fetch = partial(weights.get_state_dict, progress=False, check_hash=True)
            state = _fetch(self.name, fetch, nullcontext(""))
            head = {n: v for n, v in self.model.state_dict().items() if n.startswith(self.head_names)}
            self.model.load_state_dict(state | {n: v for n, v in head.items() if v.shape != state[n].shape})


class TimmModel(Baseline):
    """An image model of timm, such as vit_small_patch16_224[.augreg_in21k]; logits are the mean over the frames.

    With a head over tokens, `.model` is a `FrameNetwork`, which sees the frames in order.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        dropout: float = 0.0,
        pretrained: bool = False,
        size: int = 224,
        head: HeadOptions = LINEAR,
        num_frames: int = 8,
    ) -> None:
        super().__init__(f"timm/{name}", dropout)
        architecture, _, weights = name.partition(".")
        if not timm.is_model(architecture):
            raise _unknown(self.name, architecture, timm.list_models())
        if weights and name not in (known := timm.list_pretrained(f"{architecture}.*")):
            raise _unknown(self.name, name, known)
        is_linear = head.kind == "linear"
        pretrained_cfg = timm.get_pretrained_cfg(name)
        options: dict[str, Any] = {"num_classes": num_classes if is_linear else 0}
        if pretrained_cfg is not None and pretrained_cfg.fixed_input_size:
            options["img_size"] = size
        if dropout > 0 and is_linear:
            options["drop_rate"] = dropout
        if pretrained:
            fetch = partial(timm.create_model, name, pretrained=True, **options)
            self.model = _fetch(self.name, fetch, hub_or_cache())
        else:
            self.model = timm.create_model(name, **options)
        described = self.model.pretrained_cfg
        heads = described["classifier"] if is_linear else "head"
        self.head_names = (heads,) if isinstance(heads, str) else tuple(heads)
        self.made_for = "frames of {1}x{2} pixels".format(*described["input_size"])
        self.normalization = (tuple(described["mean"]), tuple(described["std"]))
        if not is_linear:
            self.model = FrameNetwork(self.model, num_frames, num_classes, dropout, head)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "TimmModel":
        return super().from_config(cfg, head=HeadOptions.from_config(cfg), num_frames=cfg.DATA.NUM_FRAMES)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.model, FrameNetwork):
            return self.model(x)
        logits = self.model(rearrange(x, "b c t h w -> (b t) c h w"))
        return reduce(logits, "(b t) k -> b k", "mean", t=x.shape[2])


BASELINES: dict[str, type[Baseline]] = {"torchvision": TorchvisionModel, "timm": TimmModel}


def _unknown(full_name: str, name: str, known: list[str]) -> UserError:
    near = ", ".join(get_close_matches(name, known)) or ", ".join(known[:20])
    return UserError(f"MODEL.MODEL_NAME is {full_name}, which does not exist; similar names: {near}")


def _fetch(name: str, fetch: Callable[[], Any], connection: AbstractContextManager[str]) -> Any:
    logger.info("weights of %s (MODEL.PRETRAINED True): downloaded, unless they are in the cache", name)
    problem = ""
    try:
        with connection as problem:
            return fetch()
    except Exception as error:  # any kind, depending on the library and its downloader
        reason = problem or one_line(error)
        raise UserError(
            f"the weights of {name} (MODEL.PRETRAINED True) cannot be downloaded: {reason}. Without network, "
            "copy ~/.cache/torch or ~/.cache/huggingface from elsewhere, or give a file as TRAIN.CHECKPOINT_FILE_PATH"
        ) from error


def one_line(error: Exception, limit: int = 200) -> str:
    """The type and the text of an error, at most about `limit` characters."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= limit else f"{text[:limit]} ..."
