"""Datasets of one folder per class, as HMDB_simp: clips are video files or folders of frames, split by CSV or folder.

Accepted layouts, with classes found from the data in sorted order:

    (a) root/<class>/<video>/<frame>.jpg  and train.csv, val.csv, test.csv of header `class,video_name`
    (b) root/{train,val,test}/<class>/<video>/<frame>.jpg
    (c) (a) or (b) with video files in place of the folders of frames
    (d) train.csv, val.csv, test.csv of lines `path<separator>label` (see kinetics.py)
"""

import csv as csv_format
import filecmp
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.datasets import kinetics
from timesformer.datasets.clip_files import VIDEO_EXTENSIONS, ClipFolder, list_classes, list_clips
from timesformer.datasets.kinetics import read_lines, splits_folder
from timesformer.datasets.reader import frame_files
from timesformer.datasets.records import SPLITS, DataError, DatasetSplit, Records, VideoRecord, join_problems

CSV_HEADER = ["class", "video_name"]


def find_records(cfg: CfgNode, split: str) -> DatasetSplit:
    """Find the clips of `split` in DATA.PATH_TO_DATA_DIR, split files in DATA.SPLITS_DIR if that is given.

    Split files take precedence over split folders. Classes are the union over the three splits. Raises DataError for
    a missing folder or split, a bad line, a clip that is not there, an empty class, and a clip in two splits.
    """
    folder = splits_folder(cfg)
    root = Path(cfg.DATA.PATH_TO_DATA_DIR)
    lists = {name: folder / f"{name}.csv" for name in SPLITS if (folder / f"{name}.csv").is_file()}
    folders = {name: root / name for name in SPLITS if (root / name).is_dir()}
    if not lists and not folders:
        raise DataError(
            f"no split found: {folder} has neither train.csv, val.csv and test.csv nor folders train, val and test. "
            f"Make one with\n  python datasets/hmdb_simp/prepare.py {root}"
        )
    if split not in (lists or folders):
        absent = folder / f"{split}.csv" if lists else root / split
        present = " and ".join(path.name for path in (lists or folders).values())
        raise DataError(f"{absent} not found, though {present} is there: add it, or split the clips anew")
    if not lists:
        return _from_folders(folders, split)
    if _columns(read_lines(lists[split])[0][1]) != CSV_HEADER:
        return kinetics.find_records(cfg, split)
    if not root.is_dir():
        raise DataError(f"DATA.PATH_TO_DATA_DIR is {root}, which is not a folder here: set it to the folder of clips")
    return _from_lists(root, lists, split)


def _columns(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv_format.reader([line]))]


def _from_folders(folders: dict[str, Path], split: str) -> DatasetSplit:
    clips = {name: {path.name: list_clips(path) for path in list_classes(folder)} for name, folder in folders.items()}
    class_names = tuple(sorted(set().union(*clips.values())))
    if not class_names:
        raise DataError(f"{folders[split]} holds no class folders: expected {folders[split]}/<class>/<video>")
    empty = [str(folders[name] / label) for name in clips for label, paths in clips[name].items() if not paths]
    if "train" in folders:
        empty += [str(folders["train"] / label) for label in class_names if label not in clips["train"]]
    if empty:
        kinds = " ".join(sorted(VIDEO_EXTENSIONS))
        remedy = f"put clips there (folders of frames, or {kinds} files), or remove the class from all splits"
        raise join_problems("classes without clips", empty, remedy)

    # The same name may be two clips (numbered anew in each split), so a clip is known again by its content.
    shared = [
        f"{mine} and {theirs}"
        for label, paths in clips[split].items()
        for other in clips
        if other != split
        for mine, theirs in ((path, folders[other] / label / path.name) for path in paths)
        if theirs.exists() and _same_content(mine, theirs)
    ]
    if shared:
        raise join_problems("the same clip in two splits", shared, "remove one of each pair")
    records = (
        VideoRecord(str(path), number, f"{label}/{path.name}")
        for number, label in enumerate(class_names)
        for path in clips[split].get(label, [])
    )
    return DatasetSplit(Records.of(records), class_names)


def _same_content(first: Path, second: Path) -> bool:
    if first.is_file() and second.is_file():
        return filecmp.cmp(first, second, shallow=False)
    if first.is_dir() and second.is_dir():
        mine, theirs = frame_files(first), frame_files(second)
        return len(mine) == len(theirs) > 0 and filecmp.cmp(mine[0], theirs[0], shallow=False)
    return False


def _from_lists(root: Path, lists: dict[str, Path], split: str) -> DatasetSplit:
    rows = [(name, number, *row) for name, path in lists.items() for number, row in _read_rows(path)]
    class_names = tuple(sorted({label for _, _, label, _ in rows}))
    index = {label: number for number, label in enumerate(class_names)}
    clips = {label: ClipFolder(root / label) for label in class_names}
    records: list[VideoRecord] = []
    places: dict[Path, str] = {}
    missing, repeated = [], []
    for name, number, label, video in rows:
        place = f"{lists[name].name} line {number}"
        path = clips[label].find(video)
        if path is None:
            if name == split:
                missing.append(f"{place}: {root / label / video}")
            continue
        if path in places:
            repeated.append(f"{label}/{video}: {places[path]} and {place}")
        places[path] = place
        if name == split:
            records.append(VideoRecord(str(path), index[label], f"{label}/{video}"))
    if repeated:
        raise join_problems(f"{lists[split].parent}: clips listed twice", repeated, "remove one of each two lines")
    if missing:
        remedy = (
            f"copy these clips there, set DATA.PATH_TO_DATA_DIR to the folder of class folders (now {root}), or make "
            f"new splits with\n  python datasets/hmdb_simp/prepare.py {root} --force"
        )
        raise join_problems(f"{lists[split]}: clips that are not on disk", missing, remedy)
    untrained = sorted(set(class_names) - {label for name, _, label, _ in rows if name == "train"})
    if "train" in lists and untrained:
        remedy = f"list some in {lists['train']}, or remove these classes from val.csv and test.csv"
        raise join_problems("classes without training clips", untrained, remedy)
    return DatasetSplit(Records.of(records), class_names)


def _read_rows(path: Path) -> list[tuple[int, tuple[str, str]]]:
    """Rows (class, video_name) of a split file, each with its line number."""
    lines = read_lines(path)
    rows, problems = [], []
    if _columns(lines[0][1]) != CSV_HEADER:
        problems.append(f"line {lines[0][0]}: found {lines[0][1]!r}, expected the header 'class,video_name'")
    for number, line in lines[1:]:
        cells = _columns(line)
        if len(cells) != 2 or not all(cells):
            problems.append(f"line {number}: found {line!r}, expected 'class,video_name'")
        else:
            rows.append((number, (cells[0], cells[1])))
    if problems:
        raise join_problems(str(path), problems, "mend these lines")
    if not rows:
        raise DataError(f"{path} has a header but no clips: expected one line `class,video_name` per clip")
    return rows
