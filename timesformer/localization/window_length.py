"""The length of a window that fits a model."""

from fvcore.common.config import CfgNode

from timesformer.datasets.transforms.sampling import build_sampler

FALLBACK_SECONDS = 2.0
"""Length of a window of a sampler that stretches over whole clips, where the length of training clips is unknown."""


def default_window(cfg: CfgNode, fps: float, clip_seconds: float = 0.0) -> tuple[float, str]:
    """Returns the length of a window in seconds, and a note if it is a guess.

    It is the span of a clip for the dense and uniform samplers in a video of `fps` frames per second. Other samplers
    stretch over a whole clip: for them, it is `clip_seconds`, the usual length of the training clips (0: unknown).
    """
    sampler = build_sampler(cfg, "test")
    if sampler.name in ("dense", "uniform"):
        return sampler.window_length(fps) / fps, ""
    if clip_seconds:
        return clip_seconds, ""
    return FALLBACK_SECONDS, (
        f"windows of {FALLBACK_SECONDS:g} seconds: the {sampler.name} sampler stretches over a whole clip, and the "
        "length of training clips is unknown; set --window to it"
    )
