"""Comparison of DATA.MEAN and DATA.STD with the mean and standard deviation that weights were trained with."""

import logging
from collections.abc import Sequence

import numpy as np
from fvcore.common.config import CfgNode

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-3  # a quarter of a gray level


def normalization_problem(cfg: CfgNode, mean: Sequence[float], std: Sequence[float]) -> str:
    """What weights expect instead of DATA.MEAN and DATA.STD, and what to do; "" if they agree or it is unknown.

    `mean` and `std` are those of each channel that the weights expect, for pixels in [0, 1]; empty if unknown.
    """
    pairs = ((mean, cfg.DATA.MEAN), (std, cfg.DATA.STD))
    if not all(len(expected) == 3 for expected, _ in pairs):
        return ""
    if all(np.allclose(expected, found, rtol=0, atol=_TOLERANCE) for expected, found in pairs):
        return ""
    (mean, found_mean), (std, found_std) = ([[round(x, 6) for x in values] for values in pair] for pair in pairs)
    return (
        f"these weights expect DATA.MEAN {mean} and DATA.STD {std}, not {found_mean} and {found_std}: "
        f'add DATA.MEAN "{mean}" DATA.STD "{std}"'
    )


def warn_of_normalization(cfg: CfgNode, source: object, mean: Sequence[float], std: Sequence[float]) -> None:
    """Logs a warning about the weights of `source` if there is a `normalization_problem`."""
    if problem := normalization_problem(cfg, mean, std):
        logger.warning("%s: %s", source, problem)
