"""HMDB51: class folders of .avi files, and its official splits, a text file for each class and split.

`testTrainMulti_7030_splits/<class>_test_split<N>.txt` has a line `<clip>.avi <id>` for each clip of the class: 1 means
training, 2 test, 0 neither. DATA.SPLIT is N. Labels are in alphabetical order of the classes.
"""

import re

from fvcore.common.config import CfgNode

from timesformer.datasets.records import DatasetSplit, join_problems
from timesformer.datasets.sources.clip_files import is_system_name, stem
from timesformer.datasets.sources.lists import iterate_lines
from timesformer.datasets.sources.official_splits import ListedClip, find_lists, load_official_split

LISTS_FOLDER = "testTrainMulti_7030_splits"
_LIST = re.compile(r"(.+)_test_split(\d)\.txt")


def hmdb51(cfg: CfgNode, split: str) -> DatasetSplit:
    """Clips of `split` of the official split DATA.SPLIT; "val" is held out of the training clips, film by film.

    Raises DataError for missing lists, a malformed line, and as `load_official_split`.
    """
    folder = find_lists(cfg, LISTS_FOLDER, "*_test_split?.txt")
    names = (path.name for path in folder.iterdir() if not is_system_name(path.name))
    class_names = tuple(sorted({match[1] for name in names if (match := _LIST.fullmatch(name))}))
    lists = [folder / f"{name}_test_split{cfg.DATA.SPLIT}.txt" for name in class_names]
    if absent := [path.name for path in lists if not path.is_file()]:
        remedy = "copy them there from the official archive, or remove the other lists of these classes"
        raise join_problems(f"{folder}: lists of DATA.SPLIT {cfg.DATA.SPLIT} are missing", absent, remedy)
    clips: dict[str, list[ListedClip]] = {"0": [], "1": [], "2": []}
    problems = []
    for label, path in enumerate(lists):
        for number, line in iterate_lines(path):
            name, *part = line.rsplit(maxsplit=1)
            where = f"{path.name} line {number}"
            if part and part[0] in clips:
                clips[part[0]].append(ListedClip(label, name, film(name, class_names[label]), where))
            else:
                problems.append(f"{where}: found {line!r}, expected `clip id` with the id 1 (training), 2 (test) or 0")
    if problems:
        raise join_problems(str(folder), problems, "fix these lines, or copy the files from the official archive")
    return load_official_split(cfg, split, folder, class_names, clips["1"], clips["2"])


def film(clip: str, class_name: str) -> str:
    """The film that a clip was cut from, the same for all parts of it; the name itself if it has another form.

    "The_Fugitive_2_run_f_cm_np1_fr_med_1.avi" and "The_Fugitive_5_run_f_cm_np2_ri_med_2.avi" of class "run" both give
    "The_Fugitive".
    """
    name = stem(clip)
    match = re.match(rf"(.*?[^_\d]|.+)[_\d]*_{re.escape(class_name)}_[a-z]_[a-z]{{2}}_np\d", name)
    return match[1] if match else name
