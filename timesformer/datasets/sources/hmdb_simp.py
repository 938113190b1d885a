"""HMDB_simp, 25 classes of HMDB51: a dataset of class folders whose split is on disk; see folder.py."""

from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.datasets.records import DataError, DatasetSplit
from timesformer.datasets.sources import folder
from timesformer.datasets.sources.lists import splits_folder


def find_records(cfg: CfgNode, split: str) -> DatasetSplit:
    """Find the clips of `split`, split by files or by folders; files are preferred. Raises DataError."""
    rule = folder.split_on_disk(cfg)
    if not rule:
        raise DataError(
            f"no split found: {splits_folder(cfg)} has neither train.csv, val.csv and test.csv nor folders train, val "
            f"and test. Make one with\n  {folder.making(cfg)}"
        )
    if rule == "files":
        return folder.from_files(cfg, split)
    return folder.from_folders(Path(cfg.DATA.PATH_TO_DATA_DIR), split)
