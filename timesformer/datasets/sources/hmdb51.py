"""HMDB51: class folders of .avi files, and its official splits, a text file for each class and split.

`testTrainMulti_7030_splits/<class>_test_split<N>.txt` has a line `<clip>.avi <id>` for each clip of the class: 1 means
training, 2 test, 0 neither. DATA.SPLIT chooses N. Labels are the numbers of the classes in alphabetical order.
"""

import re

from fvcore.common.config import CfgNode

from timesformer.datasets.records import DatasetSplit, join_problems
from timesformer.datasets.sources.clip_files import is_system_name, stem
from timesformer.datasets.sources.lists import read_lines
from timesformer.datasets.sources.official_splits import ListedClip, find_lists, find_official_records

LISTS_FOLDER = "testTrainMulti_7030_splits"
_LIST = re.compile(r"(.+)_test_split(\d)\.txt")


def hmdb51(cfg: CfgNode, split: str) -> DatasetSplit:
    """Find the clips of `split` of the official split DATA.SPLIT; "val" is held out of its training clips.

    Clips cut from one film stay together (`film`). Raises DataError for lists that are not there, for a class that has
    a list for another split only, for a line that is not as above, and for what `find_official_records` refuses.
    """
    folder = find_lists(cfg, LISTS_FOLDER, "*_test_split?.txt")
    names = (path.name for path in folder.iterdir() if not is_system_name(path.name))
    class_names = tuple(sorted({match[1] for name in names if (match := _LIST.fullmatch(name))}))
    lists = [folder / f"{name}_test_split{cfg.DATA.SPLIT}.txt" for name in class_names]
    if absent := [path.name for path in lists if not path.is_file()]:
        remedy = "copy them there from the official archive, or take out the other lists of these classes too"
        raise join_problems(f"{folder}: lists of DATA.SPLIT {cfg.DATA.SPLIT} that are not there", absent, remedy)
    clips: dict[str, list[ListedClip]] = {"0": [], "1": [], "2": []}
    problems = []
    for label, path in enumerate(lists):
        for number, line in read_lines(path):
            name, *part = line.rsplit(maxsplit=1)
            place = f"{path.name} line {number}"
            if part and part[0] in clips:
                clips[part[0]].append(ListedClip(label, name, film(name, class_names[label]), place))
            else:
                problems.append(f"{place}: found {line!r}, expected `clip id` with the id 1 (training), 2 (test) or 0")
    if problems:
        raise join_problems(str(folder), problems, "mend these lines, or take the files from the official archive")
    return find_official_records(cfg, split, folder, class_names, clips["1"], clips["2"])


def film(clip: str, class_name: str) -> str:
    """What a clip was cut from: `<film>_<class>_<properties>_<n>.avi` gives the film, parts of it alike.

    "The_Fugitive_2_run_f_cm_np1_fr_med_1.avi" and "The_Fugitive_5_run_f_cm_np2_ri_med_2.avi" of class "run" both give
    "The_Fugitive". A name that is not of this form is a film of its own.
    """
    name = stem(clip)
    match = re.match(rf"(.*?[^_\d]|.+)[_\d]*_{re.escape(class_name)}_[a-z]_[a-z]{{2}}_np\d", name)
    return match[1] if match else name
