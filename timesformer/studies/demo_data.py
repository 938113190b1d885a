"""The made clips of the demos: datasets/demo/make.py, and laid out as other datasets are."""

import csv
import io
import os
import re
import subprocess
import sys
from pathlib import Path

from timesformer.atomic import write_text_atomically
from timesformer.studies.study import ROOT, DemoData, StudyError

SUBJECTS = {"train": range(1, 31), "val": range(31, 36), "test": range(36, 51)}
"""Subjects of the clips of each split, laid out as MuWiGes, by the defaults of DATA.TEST_SUBJECTS and VAL_SUBJECTS."""
SCENES = ("office", "kitchen", "garden", "street")


def folder_of(data: DemoData, base: Path) -> Path:
    """Where a set lies under `base`; another set lies elsewhere."""
    parts = [f"demo_seed{data.seed}", "-".join(map(str, data.clips)), *data.classes]
    made = base / "_".join(parts)
    return made if data.layout == "hmdb_simp" else made.with_name(f"{made.name}_{data.layout}")


def make(data: DemoData, base: Path, workers: int) -> Path:
    """Makes a set under `base`, unless it is there; returns its folder.

    Raises StudyError if it cannot be made.
    """
    folder = folder_of(DemoData(data.seed, data.clips, data.classes), base)
    command = [sys.executable, str(ROOT / "datasets/demo/make.py"), str(folder), "--seed", str(data.seed)]
    command += ["--clips-per-class", *map(str, data.clips), "--workers", str(workers)]
    command += ["--classes", *data.classes] if data.classes else []
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise StudyError(f"the demo clips in {folder} could not be made: {made.stderr.strip()}")
    laid_out = folder_of(data, base)
    if data.layout == "muwiges":
        laid_out.mkdir(exist_ok=True)
        write_text_atomically(laid_out / "clips.csv", _muwiges_list(folder))
    elif data.layout == "ucf101":
        _lay_out_as_ucf101(folder, laid_out)
    return laid_out


def _clips(folder: Path) -> list[tuple[str, str, Path, int]]:
    """Split, class, file and number of every clip."""
    return [
        (path.parts[-3], path.parts[-2], path, int(re.findall(r"\d+", path.stem)[-1]))
        for path in sorted(folder.glob("*/*/*.mp4"))
    ]


def _muwiges_list(folder: Path) -> str:
    """clips.csv for the clips of a set: each split has subjects of its own, all are in all scenes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "subject", "scene"])
    for split, label, path, number in _clips(folder):
        subjects = SUBJECTS[split]
        subject, scene = subjects[number % len(subjects)], SCENES[number % len(SCENES)]
        writer.writerow([f"../{folder.name}/{split}/{label}/{path.name}", label, subject, scene])
    return text.getvalue()


def _lay_out_as_ucf101(folder: Path, laid_out: Path) -> None:
    """Class folders of clips (the same files under other names) in groups of four, and the lists of split 1."""
    lists = laid_out / "ucfTrainTestlist"
    lists.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    classes = sorted({label for _, label, _, _ in _clips(folder)})
    counts = dict.fromkeys(classes, 0)
    for split, label, path, _ in _clips(folder):
        name = f"v_{label}_g{counts[label] // 4 + 1:02d}_c{counts[label] % 4 + 1:02d}"
        counts[label] += 1
        target = laid_out / label / f"{name}.mp4"
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            os.link(path, target)
        number = classes.index(label) + 1
        lines["test" if split == "test" else "train"].append(
            f"{label}/{name}.avi" + (f" {number}" if split != "test" else "")
        )
    for part, listed in lines.items():
        write_text_atomically(lists / f"{part}list01.txt", "\n".join(listed) + "\n")
    numbered = [f"{number} {label}" for number, label in enumerate(classes, start=1)]
    write_text_atomically(lists / "classInd.txt", "\n".join(numbered) + "\n")
