"""Manifests as earlier versions wrote them."""

import csv
from pathlib import Path

from timesformer.datasets.manifest import Manifest


def write_earlier_manifest(path: Path) -> None:
    """Write a manifest again without the columns pattern and modified."""
    rows = [(*row[:8], row.problem) for row in Manifest(path)]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("path,label,frames,fps,width,height,seconds,bytes,problem\n")
        csv.writer(file, lineterminator="\n").writerows(rows)
