"""The demo's clips, made by datasets/demo/make.py, in the folder layouts of other datasets."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from timesformer.atomic import write_text_atomically
from timesformer.studies.study import ROOT, DemoData, StudyError

# by the defaults of DATA.TEST_SUBJECTS and VAL_SUBJECTS
SUBJECTS = {"train": range(1, 31), "val": range(31, 36), "test": range(36, 51)}
SCENES = ("office", "kitchen", "garden", "street")


def folder_of(data: DemoData, base: Path) -> Path:
    """The folder of a set under `base`."""
    parts = [f"demo_seed{data.seed}", "-".join(map(str, data.clips)), *data.classes]
    return base / "_".join(parts + [data.layout] * (data.layout != "hmdb_simp"))


def make(data: DemoData, base: Path, workers: int) -> Path:
    """Makes a set under `base` unless it exists; returns its folder."""
    folder = folder_of(data.model_copy(update={"layout": "hmdb_simp"}), base)
    command = [sys.executable, str(ROOT / "datasets/demo/make.py"), str(folder), "--seed", str(data.seed)]
    command += ["--clips-per-class", *map(str, data.clips), "--workers", str(workers)]
    command += ["--classes", *data.classes] if data.classes else []
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise StudyError(f"the demo clips in {folder} could not be made: {made.stderr.strip()}")
    target = folder_of(data, base)
    target.mkdir(exist_ok=True)
    if data.layout == "muwiges":
        _write_muwiges(folder, target)
    elif data.layout == "ucf101":
        _write_ucf101(folder, target)
    return target


def _clips(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Split, class and file of every clip."""
    for path in sorted(folder.glob("*/*/*.mp4")):
        yield path.parts[-3], path.parts[-2], path


def _write_muwiges(folder: Path, target: Path) -> None:
    """clips.csv: each split has its own subjects, and all are in all scenes."""
    lines = ["path,label,subject,scene"]
    for split, label, path in _clips(folder):
        number, subjects = int(re.findall(r"\d+", path.stem)[-1]), SUBJECTS[split]
        subject, scene = subjects[number % len(subjects)], SCENES[number % len(SCENES)]
        lines.append(f"../{folder.name}/{split}/{label}/{path.name},{label},{subject},{scene}")
    write_text_atomically(target / "clips.csv", "\n".join(lines) + "\n")


def _write_ucf101(folder: Path, target: Path) -> None:
    """Class folders with links to the clips in groups of four, and the lists of split 1."""
    lines: dict[str, list[str]] = {"trainlist01.txt": [], "testlist01.txt": []}
    classes = sorted({label for _, label, _ in _clips(folder)})
    counts = dict.fromkeys(classes, 0)
    for split, label, path in _clips(folder):
        name = f"v_{label}_g{counts[label] // 4 + 1:02d}_c{counts[label] % 4 + 1:02d}"
        counts[label] += 1
        link = target / label / f"{name}.mp4"
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            os.link(path, link)
        if split == "test":
            lines["testlist01.txt"].append(f"{label}/{name}.avi")
        else:
            lines["trainlist01.txt"].append(f"{label}/{name}.avi {classes.index(label) + 1}")
    lines["classInd.txt"] = [f"{number} {label}" for number, label in enumerate(classes, start=1)]
    (target / "ucfTrainTestlist").mkdir(exist_ok=True)
    for name, listed in lines.items():
        write_text_atomically(target / "ucfTrainTestlist" / name, "\n".join(listed) + "\n")
