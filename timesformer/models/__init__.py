"""Models: TimeSformer, ViViT, VideoMAE and other libraries' baselines, and their pretrained weights."""

from timesformer.models import videomae as _videomae  # noqa: F401
from timesformer.models import vit as _vit  # noqa: F401 (registers its models)
from timesformer.models import vivit as _vivit  # noqa: F401
from timesformer.models.build import MODEL_REGISTRY, build_model

__all__ = ["MODEL_REGISTRY", "build_model"]
