"""The length of a window that fits a model."""

from fvcore.common.config import CfgNode

from timesformer.datasets.transforms.sampling import build_sampler

FALLBACK_SECONDS = 2.0
"""Length of a window of a sampler that stretches over whole clips, where the length of training clips is unknown."""


def default_window(cfg: CfgNode, fps: float) -> tuple[float, str]:
    """Returns the length of a window in seconds, and a note if it is a guess.

    It is the span of a clip for the dense and uniform samplers in a video of `fps` frames per second.
    """
    sampler = build_sampler(cfg, "test")
    if sampler.name in ("dense", "uniform"):
        return sampler.window_length(fps) / fps, ""
    return FALLBACK_SECONDS, (
        f"windows of {FALLBACK_SECONDS:g} seconds: the {sampler.name} sampler stretches over a whole clip, and the "
        "length of training clips is unknown; set --window to it"
    )
