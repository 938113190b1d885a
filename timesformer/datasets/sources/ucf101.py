"""UCF101: class folders of .avi files, and its official splits.

`ucfTrainTestlist/` has classInd.txt of lines `<number> <class>` with numbers from 1, trainlist0<N>.txt of lines
`<class>/v_<class>_g<group>_c<clip>.avi <number>`, and testlist0<N>.txt of the same without the number. DATA.SPLIT is N.
Case is ignored: the clips of the folder HandstandPushups are named v_HandStandPushups_...
"""

import re
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.datasets.records import DataError, DatasetSplit, join_problems
from timesformer.datasets.sources.clip_files import stem
from timesformer.datasets.sources.lists import iterate_lines
from timesformer.datasets.sources.official_splits import ListedClip, find_lists, load_official_split

LISTS_FOLDER = "ucfTrainTestlist"
_REMEDY = "fix these lines, or copy the file from the official archive (that of the recognition task)"


def ucf101(cfg: CfgNode, split: str) -> DatasetSplit:
    """Clips of `split` of the official split DATA.SPLIT; "val" is held out of the training clips, group by group.

    Raises DataError for missing lists, a malformed line, a number of another class, and as `load_official_split`.
    """
    folder = find_lists(cfg, LISTS_FOLDER, "classInd.txt")
    class_names = _read_classes(folder / "classInd.txt")
    lists = {part: folder / f"{part}list0{cfg.DATA.SPLIT}.txt" for part in ("train", "test")}
    needs_training = split != "test" or lists["train"].is_file()
    trained = _read_clips(lists["train"], class_names, numbered=True) if needs_training else []
    tested = _read_clips(lists["test"], class_names, numbered=False)
    return load_official_split(cfg, split, folder, class_names, trained, tested)


def _read_classes(path: Path) -> tuple[str, ...]:
    class_names: list[str] = []
    problems = []
    for number, line in iterate_lines(path):
        label, name = (*line.split(maxsplit=1), "")[:2]
        expected = str(len(class_names) + 1)
        if label != expected or not name or name.casefold() in map(str.casefold, class_names):
            problems.append(f"line {number}: found {line!r}, expected `{expected} <class>`, each class once")
        class_names.append(name)
    if problems:
        raise join_problems(str(path), problems, _REMEDY)
    return tuple(class_names)


def _read_clips(path: Path, class_names: tuple[str, ...], numbered: bool) -> list[ListedClip]:
    if not path.is_file():
        raise DataError(f"{path} not found, though classInd.txt is there: copy it from the official archive")
    labels = {name.casefold(): label for label, name in enumerate(class_names)}
    clips, problems = [], []
    for line_number, line in iterate_lines(path):
        entry, *numbers = line.split()
        class_name, _, name = entry.partition("/")
        label = labels.get(class_name.casefold())
        expected = [str(label + 1)] if numbered and label is not None else []
        if not name or label is None or numbers != expected:
            form = f"<class>/<clip>{' <number>' * numbered}"
            problems.append(f"line {line_number}: found {line!r}, expected `{form}` with a class of classInd.txt")
        else:
            group = re.search(r"_(g\d+)_c\d+$", stem(name))
            clips.append(ListedClip(label, name, group[1] if group else name, f"{path.name} line {line_number}"))
    if problems:
        raise join_problems(str(path), problems, _REMEDY)
    return clips
