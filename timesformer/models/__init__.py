"""Models: TimeSformer, ViViT, VideoMAE and other libraries' baselines, and their pretrained weights."""

from timesformer.torchvision_import import repair_torchvision

repair_torchvision()  # timm imports torchvision

from timesformer.models import videomae as _videomae  # noqa: E402, F401
from timesformer.models import vit as _vit  # noqa: E402, F401 (registers its models)
from timesformer.models import vivit as _vivit  # noqa: E402, F401
from timesformer.models.build import MODEL_REGISTRY, build_model  # noqa: E402

__all__ = ["MODEL_REGISTRY", "build_model"]
