"""MuWiGes, 12 gestures of 50 subjects seen from the wrist: clips.csv, split by who and where.

The file has the columns path, label, subject and scene. DATA.PROTOCOL:

    cross_subject        test clips are those of DATA.TEST_SUBJECTS
    cross_scene_subject  test clips are those of DATA.TEST_SUBJECTS in DATA.TEST_SCENES, and nothing of either is
                         trained on; clips of a test subject in another scene, or the other way round, are left out

Clips of DATA.VAL_SUBJECTS are held out of training for validation. The gesture study has 35 subjects to train on and 15
to test; which ones these are is not published, so the default, subjects 36 to 50, is this project's choice.
"""

import logging
from collections import Counter
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.datasets.clip_files import ClipFolder
from timesformer.datasets.records import DataError, DatasetSplit, Records, join_problems
from timesformer.datasets.split_files import check_training, leave_out, read_class_names, read_table, splits_folder
from timesformer.errors import shorten

logger = logging.getLogger(__name__)

COLUMNS = ("path", "label", "subject", "scene")


def find_records(cfg: CfgNode, split: str) -> DatasetSplit:
    """Find the clips of `split` in clips.csv of DATA.SPLITS_DIR (else DATA.PATH_TO_DATA_DIR).

    Paths start at DATA.PATH_PREFIX, else at DATA.PATH_TO_DATA_DIR. Class names are the lines of `classes.txt` beside
    the file if there is one (a label is then a name or a number from 0), else the labels, sorted, numbers by value.
    Raises DataError for a missing file, a bad line, a clip that is listed twice or not there (see DATA.MAX_MISSING), a
    split without clips, and a class without training clips.
    """
    folder = splits_folder(cfg)
    csv = folder / "clips.csv"
    if not csv.is_file():
        raise DataError(
            f"{csv} not found: expected a file of columns {','.join(COLUMNS)}; point DATA.SPLITS_DIR to its folder"
        )
    rows = _read(csv)
    class_names, numbers = _classes(csv, [label for _, _, label, _, _ in rows])
    splits = [_split(cfg, subject, scene) for *_, subject, scene in rows]
    clips = Counter(splits)
    if not clips[split]:
        subjects = shorten(map(str, sorted({subject for *_, subject, _ in rows})), limit=50)
        scenes = shorten(sorted({scene for *_, scene in rows}))
        raise DataError(
            f"{csv}: no clips for the {split} split by DATA.PROTOCOL {cfg.DATA.PROTOCOL}; it has the subjects "
            f"{subjects} and the scenes {scenes}: choose among them for DATA.TEST_SUBJECTS {cfg.DATA.TEST_SUBJECTS}, "
            f"DATA.VAL_SUBJECTS {cfg.DATA.VAL_SUBJECTS} and DATA.TEST_SCENES {cfg.DATA.TEST_SCENES!r}"
        )
    counts = ", ".join(f"{name} {clips[name]}" for name in ("train", "val", "test"))
    logger.info("%s, %s: %s, left out %d clips", csv, cfg.DATA.PROTOCOL, counts, clips[""])

    root = Path(cfg.DATA.PATH_PREFIX or cfg.DATA.PATH_TO_DATA_DIR)
    folders: dict[Path, ClipFolder] = {}
    names, labels, paths, missing = [], [], [], []
    for (number, path, label, _, _), own in zip(rows, splits, strict=True):
        if own != split:
            continue
        whole = root / path
        if whole.parent not in folders:
            folders[whole.parent] = ClipFolder(whole.parent)
        if clip := folders[whole.parent].find(whole.name):
            names.append(path)
            labels.append(numbers[label])
            paths.append(str(clip))
        else:
            missing.append(f"line {number}: {whole}")
    remedy = "copy them there, or set DATA.PATH_PREFIX to the folder that the paths start from"
    leave_out(cfg, csv, missing, clips[split], remedy)
    if split == "train":
        check_training(csv, class_names, labels)
    return DatasetSplit(Records(names, labels, paths), class_names)


def _read(csv: Path) -> list[tuple[int, str, str, int, str]]:
    """Number of the line, path, label, subject and scene of every clip."""
    problems: list[str] = []
    rows = []
    lines: dict[str, int] = {}
    for number, (path, label, subject, scene) in read_table(csv, COLUMNS, problems):
        if not subject.isdecimal():
            problems.append(f"line {number}: subject {subject!r}, expected a whole number")
        elif path in lines:
            problems.append(f"line {number}: {path} stands in line {lines[path]} already")
        else:
            lines[path] = number
            rows.append((number, path, label, int(subject), scene))
    if problems:
        raise join_problems(str(csv), problems, "mend these lines")
    if not rows:
        raise DataError(f"{csv} has a header but no clips: expected one line '{','.join(COLUMNS)}' per clip")
    return rows


def _classes(csv: Path, labels: list[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of the classes, and the number of each label."""
    listed = read_class_names(csv.parent)
    names = listed or tuple(sorted(set(labels), key=lambda label: (label.isdecimal() and int(label), label)))
    numbers = {name: number for number, name in enumerate(names)}
    if listed:
        numbers = {str(number): number for number in range(len(names))} | numbers
    if unknown := sorted(set(labels) - set(numbers)):
        raise join_problems(f"{csv}: labels that are no class of classes.txt", unknown, "mend them, or classes.txt")
    return names, numbers


def _split(cfg: CfgNode, subject: int, scene: str) -> str:
    """The split of a clip, or "" if it is in none."""
    tested = subject in cfg.DATA.TEST_SUBJECTS
    scenes = {name.strip() for name in cfg.DATA.TEST_SCENES.split(",")}
    if cfg.DATA.PROTOCOL == "cross_scene_subject" and tested != (scene in scenes):
        return ""
    if tested:
        return "test"
    return "val" if subject in cfg.DATA.VAL_SUBJECTS else "train"
