"""Comparison of a training's split with the split of the weights that it starts from."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from fvcore.common.config import CfgNode

from timesformer.config.differences import Change, changes_since, differences
from timesformer.config.options import OPTIONS, get_cfg, set_option

logger = logging.getLogger(__name__)


def split_changes(cfg: CfgNode, content: Mapping[str, Any]) -> list[Change]:
    """The options by which the split of `cfg` differs from that of weights trained on the same folder and dataset.

    `content` is that of the checkpoint besides its weights. Empty if the split is the same, the folder or dataset is
    another, or the checkpoint holds no configuration.
    """
    saved, _ = changes_since(cfg, content)
    folders = [str(path) for path in (saved.get("DATA.PATH_TO_DATA_DIR") or "", cfg.DATA.PATH_TO_DATA_DIR)]
    if not folders[0] or os.path.realpath(folders[0]) != os.path.realpath(folders[1]):
        return []
    if saved.get("TRAIN.DATASET") != cfg.TRAIN.DATASET:
        return []
    before = get_cfg()
    for key in saved.keys() & OPTIONS.keys():
        set_option(before, key, saved[key])
    changes = (c for c in differences(before, cfg) if "split" in c.effects or c.key == "DATA.SPLITS_DIR")
    return [change for change in changes if any(OPTIONS[change.key].is_read(one) for one in (before, cfg))]


def warn_of_split(cfg: CfgNode, source: object, content: Mapping[str, Any]) -> None:
    """Logs a warning about the weights of `source` if there are `split_changes`."""
    if changes := split_changes(cfg, content):
        logger.warning(
            "%s: these weights were trained on the same clips with another split (%s), so that clips for validation "
            "and test may have been trained on, and results are too good: start from weights of the same split, or of "
            "other clips (docs/small_data.md)",
            source,
            "; ".join(map(str, changes)),
        )
