#!/usr/bin/env python3
"""Downloads, re-encodes, checks or splits a dataset: python tools/prepare.py DATASET ROOT (docs/preparing.md)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.preparation.command_line import main

if TYPE_CHECKING:
    from timesformer.preparation.findings import Findings


def write_page(findings: Findings, folder: Path, workers: int) -> Path:
    from timesformer.visualization.pages.data_page import write_data_page  # late: takes seconds to import

    return write_data_page(findings, folder, workers)


if __name__ == "__main__":
    sys.exit(main(write_page=write_page))
