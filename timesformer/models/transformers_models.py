"""Video classifiers of the transformers library: V-JEPA 2, VideoMAE, ViViT, TimeSformer, ..."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from einops import rearrange, repeat
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.errors import UserError, shorten
from timesformer.models.baselines import Baseline, one_line
from timesformer.models.heads import LINEAR, ClipNetwork, HeadOptions
from timesformer.models.weights.download import hub_configs, local_path
from timesformer.models.weights.files import read_hub_configs
from timesformer.models.weights.huggingface import metadata_of_folder
from timesformer.torchvision_import import import_package

logger = logging.getLogger(__name__)

_TOKEN_ORDERS = {  # of the patches of a clip, and whether there is a class token before them
    "timesformer": ("h w t", True),
    "videomae": ("t h w", False),
    "videoprism_vision_model": ("t h w", False),
    "vivit": ("t h w", True),
    "vjepa2": ("t h w", False),
}
_AFTER_TOKENS = ("pooler", "head", "head_layernorm", "classifier")  # layers that a head over tokens replaces
_NOT_ARCHITECTURE = ("id2label", "label2id", "architectures", "_name_or_path", "dtype", "torch_dtype")


class TransformersModel(Baseline):
    """A video classifier by its name on the Hugging Face hub, or the folder of config.json and weights.

    A `pretrained` one keeps a fresh head unless its number of classes is `num_classes`. `network_config`, as of another
    model's attribute, replaces the name's config.json.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        dropout: float = 0.0,
        pretrained: bool = False,
        size: int = 224,
        network_config: dict[str, Any] | None = None,
        head: HeadOptions = LINEAR,
        num_frames: int = 16,
    ) -> None:
        super().__init__(f"transformers/{name}", dropout)
        transformers = import_package("transformers", f"MODEL.MODEL_NAME {self.name}")
        self.normalization = ((), ())  # unknown
        self.new_parameters: list[str] = []  # tensors of `.model` without pretrained weights
        folder = None
        if network_config is None:
            folder = _folder(name, pretrained)
            network_config = self._read_configs(folder)
        config = _config(transformers, self.name, network_config)
        if config.model_type == "vjepa2":
            config.crop_size = size  # its rotary positions follow from it, and no weights
        config.num_labels = num_classes
        with _quiet(transformers):
            if pretrained:
                network = self._pretrained(transformers, folder, config)
            else:
                network = transformers.AutoModelForVideoClassification.from_config(config)
        network = network.float()
        if config.model_type == "vjepa2":
            network.vjepa2.predictor = None  # only pretraining uses it
        self.config = network.config
        self.network_config = {k: v for k, v in network.config.to_dict().items() if k not in _NOT_ARCHITECTURE}
        self.made_for = "{} frames of {}x{} pixels".format(*_clip_size(network.config))
        if head.kind == "linear":
            self.model: nn.Module = network
            self.head_names, self.blocks_in = (_last_linear(network),), network.base_model_prefix
            if dropout > 0:
                self.drop_before_head(dropout)
        else:
            self.model = TokenNetwork(network, num_frames, num_classes, dropout, head)
            self.new_parameters = [f"backbone.{name}" for name in self.new_parameters]
            self.head_names, self.blocks_in = ("head",), f"backbone.{network.base_model_prefix}"

    @classmethod
    def from_config(cls, cfg: CfgNode, network_config: dict[str, Any] | None = None) -> "TransformersModel":
        """The network MODEL.MODEL_NAME; UserError if it is unknown, cannot take the clips or be downloaded."""
        head = HeadOptions.from_config(cfg)
        return super().from_config(cfg, network_config=network_config, head=head, num_frames=cfg.DATA.NUM_FRAMES)

    def forward(self, x: Tensor) -> Tensor:
        """Clips [batch, 3, frames, height, width] (float, normalized) to logits [batch, classes]."""
        if isinstance(self.model, TokenNetwork):
            return self.model(x)
        logits = self.model(**{self.model.main_input_name: x.transpose(1, 2)}).logits
        # A space-only TimeSformer gives [batch * frames, classes], VideoPrism [batch, 1, classes].
        return logits.reshape(len(x), -1, logits.shape[-1]).mean(dim=1)

    def check_input(self, frames: int, size: int, keys: str) -> None:
        # Some networks compute something else, without an error, from clips of another size.
        made_for, tubelet = _clip_size(self.config), _tubelet_size(self.config)[0]
        if self.config.model_type == "vjepa2":
            if frames % tubelet:
                raise self.misfit(frames, size, keys, f"the number of frames must be a multiple of {tubelet}")
            if (size, size) != made_for[1:]:
                raise self.misfit(frames, size, keys, "DATA.TRAIN_CROP_SIZE and DATA.TEST_CROP_SIZE must be equal")
        elif (frames, size, size) != made_for:
            raise self.misfit(frames, size, keys, "it takes no others")
        super().check_input(frames, size, keys)

    def _read_configs(self, folder: Path) -> dict[str, Any]:
        """The content of config.json; sets the normalization from that of the processor."""
        found = read_hub_configs(folder)
        if "config" not in found:
            raise UserError(f"MODEL.MODEL_NAME is {self.name}, but {folder} has no config.json; give another name")
        if "preprocessor" in found:
            metadata = metadata_of_folder(found["config"], found["preprocessor"])
            self.normalization = (metadata.mean, metadata.std)
        return found["config"]

    def _pretrained(self, transformers: ModuleType, folder: Path, config: Any) -> nn.Module:
        try:
            model, report = transformers.AutoModelForVideoClassification.from_pretrained(
                folder, config=config, ignore_mismatched_sizes=True, output_loading_info=True, local_files_only=True
            )
        except Exception as error:  # any kind, depending on the files
            problem = f"the weights of {self.name} (MODEL.PRETRAINED True) cannot be loaded: {one_line(error)}"
            raise UserError(problem) from error
        others = sorted(key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"])
        self.new_parameters = [*others, *sorted(report["missing_keys"])]
        head = _last_linear(model)
        if misfits := [name for name in others if not name.startswith(head)]:
            raise UserError(f"the weights of {self.name} do not fit its config.json: {shorten(misfits)}")
        if new := self.new_parameters:
            logger.info("%s: tensors without pretrained weights: %s", self.name, shorten(new))
        return model


class TokenNetwork(ClipNetwork):
    """A video classifier without its pooler and classifier as `backbone`, under a head over tokens."""

    def __init__(
        self, backbone: nn.Module, num_frames: int, num_classes: int, dropout: float, head: HeadOptions
    ) -> None:
        super().__init__()
        config = backbone.config
        if config.model_type not in _TOKEN_ORDERS:
            raise UserError(
                f"MODEL.HEAD is {head.kind}, which needs tokens of a known order: of transformers, those of "
                f"{', '.join(_TOKEN_ORDERS)}, not {config.model_type}; set MODEL.HEAD linear"
            )
        for name in _AFTER_TOKENS:
            if hasattr(backbone, name):
                setattr(backbone, name, None)
        self.backbone = backbone
        self.order, self.has_cls = _TOKEN_ORDERS[config.model_type]
        self.tubelet_size = _tubelet_size(config)
        steps = num_frames // self.tubelet_size[0]
        self.add_head(config.hidden_size, num_classes, dropout, head, steps, self.has_cls)

    def forward_tokens(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Class tokens, if there are any, and patches, see `ClipNetwork`."""
        network = self.backbone
        options = {"skip_predictor": True} if network.config.model_type == "vjepa2" else {}
        encoder = getattr(network, network.base_model_prefix)
        tokens = encoder(**{network.main_input_name: x.transpose(1, 2)}, **options).last_hidden_state
        if getattr(network, "fc_norm", None) is not None:  # VideoMAE's, which has no norm before its mean
            tokens = network.fc_norm(tokens)
        steps, rows = (x.shape[axis] // size for axis, size in zip((2, 3), self.tubelet_size[:2], strict=True))
        cls = None
        if self.has_cls:
            cls = tokens[:, :1]  # of the clip, or of each frame
            cls = repeat(cls, "b 1 d -> b t 1 d", t=steps) if len(cls) == len(x) else cls.unflatten(0, (len(x), steps))
            tokens = tokens[:, 1:]
        if len(tokens) != len(x):  # a space-only TimeSformer
            return cls, rearrange(tokens, "(b t) (h w) d -> b t h w d", t=steps, h=rows)
        return cls, rearrange(tokens, f"b ({self.order}) d -> b t h w d", t=steps, h=rows)


def _folder(name: str, pretrained: bool) -> Path:
    """The folder of config.json and, if `pretrained`, weights; downloaded once unless it is a local one."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.startswith(("/", "~", ".")):
        raise UserError(f"MODEL.MODEL_NAME is transformers/{name}, but there is no folder {path}; check the path")
    return local_path(f"hf:{name}") if pretrained else hub_configs(name)


def _config(transformers: ModuleType, name: str, content: dict[str, Any]) -> Any:
    """The configuration of a network from the content of config.json; UserError if it is not a video classifier."""
    kind = content.get("model_type")
    known = transformers.models.auto.modeling_auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES
    if kind not in known:
        raise UserError(
            f"MODEL.MODEL_NAME is {name}, whose config.json has model_type {kind}, expected a video classifier of "
            f"transformers {transformers.__version__}: {', '.join(known)}"
        )
    try:
        return transformers.AutoConfig.for_model(kind).from_dict(content)
    except Exception as error:  # any kind, depending on the values
        raise UserError(f"config.json of {name} is not valid: {one_line(error)}") from error


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Hides what transformers prints about new tensors, which is reported in this package's log."""
    settings = transformers.utils.logging
    level, shows_progress = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(level)
        if shows_progress:
            settings.enable_progress_bar()


def _tubelet_size(config: Any) -> tuple[int, int, int]:
    """Frames, height and width of a patch."""
    size, patch = getattr(config, "tubelet_size", 1), getattr(config, "patch_size", 0)
    if not isinstance(size, int):
        return tuple(size)
    return (size, patch, patch) if isinstance(patch, int) else (size, *patch)


def _last_linear(model: nn.Module) -> str:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


def _clip_size(config: Any) -> tuple[int, int, int]:
    """Frames, height and width of the clips that a network was made for."""
    frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", 0)
    side = getattr(config, "image_size", None) or getattr(config, "crop_size", 0)
    return (frames, side, side) if isinstance(side, int) else (frames, *side)
