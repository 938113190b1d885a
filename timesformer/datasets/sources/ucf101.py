"""UCF101: class folders of .avi files, and its official splits.

`ucfTrainTestlist/` has classInd.txt of lines `<number> <class>` with numbers from 1, trainlist0<N>.txt of lines
`<class>/v_<class>_g<group>_c<clip>.avi <number>`, and testlist0<N>.txt of the same without the number. DATA.SPLIT
chooses N. Labels are the numbers less 1. Classes and clips are known whatever their letters' case, because the clips of
the folder HandstandPushups are called v_HandStandPushups_... on disk, and lists have it either way.
"""

import re
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.datasets.records import DataError, DatasetSplit, join_problems
from timesformer.datasets.sources.clip_files import stem
from timesformer.datasets.sources.lists import read_lines
from timesformer.datasets.sources.official_splits import ListedClip, find_lists, find_official_records

LISTS_FOLDER = "ucfTrainTestlist"
_REMEDY = "mend these lines, or take the file from the official archive (that of the recognition task)"


def ucf101(cfg: CfgNode, split: str) -> DatasetSplit:
    """Find the clips of `split` of the official split DATA.SPLIT; "val" is held out of its training clips.

    The clips of a group, which show one person in one place, stay together. Raises DataError for lists that are not
    there, a line that is not as above, a number that is not the class's, and for what `find_official_records` refuses.
    """
    folder = find_lists(cfg, LISTS_FOLDER, "classInd.txt")
    class_names = _read_classes(folder / "classInd.txt")
    lists = {part: folder / f"{part}list0{cfg.DATA.SPLIT}.txt" for part in ("train", "test")}
    is_needed = split != "test" or lists["train"].is_file()
    trained = _read_clips(lists["train"], class_names, numbered=True) if is_needed else []
    tested = _read_clips(lists["test"], class_names, numbered=False)
    return find_official_records(cfg, split, folder, class_names, trained, tested)


def _read_classes(path: Path) -> tuple[str, ...]:
    class_names: list[str] = []
    problems = []
    for number, line in read_lines(path):
        label, name = (*line.split(maxsplit=1), "")[:2]
        wanted = str(len(class_names) + 1)
        if label != wanted or not name:
            problems.append(f"line {number}: found {line!r}, expected `{wanted} <class>`, numbered from 1 on")
        elif name.casefold() in map(str.casefold, class_names):
            problems.append(f"line {number}: {name} has a line already")
        class_names.append(name)
    if problems:
        raise join_problems(str(path), problems, _REMEDY)
    return tuple(class_names)


def _read_clips(path: Path, class_names: tuple[str, ...], numbered: bool) -> list[ListedClip]:
    if not path.is_file():
        raise DataError(f"{path} not found, though classInd.txt is there: copy it there from the official archive")
    labels = {name.casefold(): label for label, name in enumerate(class_names)}
    expected = f"`<class>/<clip>{' <number>' * numbered}`"
    clips, problems = [], []
    for line_number, line in read_lines(path):
        place = f"line {line_number}"
        entry, *numbers = line.split()
        class_name, slash, name = entry.partition("/")
        label = labels.get(class_name.casefold())
        if not (slash and name) or len(numbers) != numbered:
            problems.append(f"{place}: found {line!r}, expected {expected}")
        elif label is None:
            problems.append(f"{place}: {class_name} is not in classInd.txt")
        elif numbered and numbers[0] != str(label + 1):
            problems.append(f"{place}: {entry} has number {numbers[0]}, but classInd.txt has {label + 1} for its class")
        else:
            group = re.search(r"_(g\d+)_c\d+$", stem(name))
            clips.append(ListedClip(label, name, group[1] if group else name, f"{path.name} {place}"))
    if problems:
        raise join_problems(str(path), problems, _REMEDY)
    return clips
