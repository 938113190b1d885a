"""UCF101 in its official layout, made small: numbers from 1, the class of two spellings, groups, and every fault."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.datasets.official import OfficialDataset
from timesformer.datasets.catalog import load_split

ucf101 = OfficialDataset("ucf101", 4)
config, names, fails = ucf101.config, ucf101.names, ucf101.fails

CLASSES = ("Archery", "HandstandPushups", "YoYo", "Biking")  # in the order of classInd.txt, which makes the labels
GROUPS = {1: (1, 2), 2: (3, 4), 3: (5, 6)}  # tested in each split, of 6


def clips(label: str, group: int) -> list[str]:
    spelt = "HandStandPushups" if label == "HandstandPushups" else label
    return [f"v_{spelt}_g{group:02}_c{number:02}.avi" for number in range(1, 2 + group % 3)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The official layout; the files are empty."""
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_bytes("".join(f"{n} {c}\r\n" for n, c in enumerate(CLASSES, start=1)).encode())
    for label in CLASSES:
        folder = tmp_path / "UCF-101" / label
        folder.mkdir(parents=True)
        for group in range(1, 7):
            for name in clips(label, group):
                (folder / name).touch()
    for split, tested in GROUPS.items():
        train, test = [], []
        for number, label in enumerate(CLASSES, start=1):
            for group in range(1, 7):
                for name in clips(label, group):
                    if group in tested:
                        test.append(f"{label}/{name}\r\n")
                    else:
                        train.append(f"{label}/{name} {number}\r\n")
        (lists / f"trainlist0{split}.txt").write_bytes("".join(train).encode())
        (lists / f"testlist0{split}.txt").write_bytes("".join(test).encode())
    return tmp_path


def groups(root: Path, part: str, split: int = 1) -> set[tuple[str, int]]:
    return {(name.split("/")[0], int(re.search(r"_g(\d+)_", name)[1])) for name in names(root, part, split=split)}


def listing(root: Path, name: str) -> Path:
    return root / "ucfTrainTestlist" / name


@pytest.mark.parametrize("split", [1, 2, 3])
def test_each_split_trains_validates_and_tests_on_its_own_clips(root: Path, split: int) -> None:
    trained, tested = (
        [line.split()[0] for line in listing(root, f"{part}list0{split}.txt").read_text().splitlines()]
        for part in ("train", "test")
    )
    train, val = names(root, "train", split=split), names(root, "val", split=split)
    assert sorted(train + val) == sorted(trained)
    assert names(root, "test", split=split) == tested


def test_labels_are_the_numbers_of_classind_less_one_and_paths_those_on_disk(root: Path) -> None:
    for part in ("train", "val", "test"):
        found = load_split(config(root), part)
        assert found.class_names == CLASSES
        assert Counter(record.label for record in found.records).keys() == {0, 1, 2, 3}
        for record in found.records:
            assert CLASSES[record.label] == Path(record.path).parent.name
            assert record.path == str(root / "UCF-101" / record.name)


def test_whole_groups_of_every_class_validate_in_each_split(root: Path) -> None:
    for split in GROUPS:
        train, val = groups(root, "train", split), groups(root, "val", split)
        assert train.isdisjoint(val)
        assert Counter(label for label, _ in val) == dict.fromkeys(CLASSES, 1)
        assert {group for _, group in val | train}.isdisjoint(GROUPS[split])


@pytest.mark.parametrize("where", ["lists", "folder", "files", "classInd"])
def test_the_handstand_pushups_are_found_however_they_are_spelt(root: Path, where: str) -> None:
    path = root / "UCF-101" / "HandstandPushups"
    if where == "lists":
        for file in listing(root, "").glob("t*list*.txt"):
            file.write_text(file.read_text().replace("HandstandPushups", "HandStandPushups"))
    elif where == "folder":
        path = path.rename(path.with_name("HandStandPushups"))
    elif where == "files":
        for file in list(path.iterdir()):
            file.rename(file.with_name(file.name.replace("HandStand", "Handstand")))
    else:
        file = listing(root, "classInd.txt")
        file.write_text(file.read_text().replace("HandstandPushups", "HandStandPushups"))
    records = [record for record in load_split(config(root), "test").records if record.label == 1]
    assert sorted(Path(record.path).name.lower() for record in records) == sorted(
        name.lower() for group in GROUPS[1] for name in clips("HandstandPushups", group)
    )
    assert all(Path(record.path).is_file() for record in records)


def test_the_counts_are_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "timesformer")
    for part in ("train", "val", "test"):
        load_split(config(root), part)
    number = {part: len(names(root, part)) for part in ("train", "val", "test")}
    lists = root / "ucfTrainTestlist"
    total = number["train"] + number["val"]
    assert caplog.messages[:3] == [
        f"train: {number['train']} of {total} training clips of split 1 of {lists}",
        f"val: {number['val']} of {total} training clips of split 1 of {lists}",
        f"test: {number['test']} test clips of split 1 of {lists}",
    ]


# ---------------------------------------------------------------- faults


def test_missing_lists_are_errors_that_name_them(root: Path) -> None:
    listing(root, "testlist02.txt").unlink()
    fails(root, "testlist02.txt not found, though classInd.txt is there", split=2)
    shutil.rmtree(root / "ucfTrainTestlist")
    fails(root, f"{root} has no official split files: expected classInd.txt in it, in {root}/ucfTrainTestlist, or")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Archery/v_Archery_g04_c01.avi", "found .*, expected `<class>/<clip> <number>`"),
        ("Archery/v_Archery_g04_c01.avi one 1", "found .*, expected `<class>/<clip> <number>`"),
        ("v_Archery_g04_c01.avi 1", "found .*, expected `<class>/<clip> <number>`"),
        ("Archery/ 1", "found .*, expected `<class>/<clip> <number>`"),
        ("Archery/x.avi 3", "Archery/x.avi has number 3, but classInd.txt has 1 for its class"),
        ("Archery/x.avi 0", "Archery/x.avi has number 0, but classInd.txt has 1 for its class"),
        ("Archery/x.avi 102", "Archery/x.avi has number 102, but classInd.txt has 1 for its class"),
        ("Archery/x.avi 1.0", "Archery/x.avi has number 1.0, but classInd.txt has 1 for its class"),
        ("Surfing/x.avi 5", "Surfing is not in classInd.txt"),
    ],
)
def test_a_bad_line_of_the_training_list_is_an_error_with_its_number(root: Path, line: str, message: str) -> None:
    path = listing(root, "trainlist01.txt")
    path.write_text(f"\n{line}\n" + path.read_text())
    fails(root, f"(?s)trainlist01.txt:.*line 2: {message}", "test")


def test_the_test_split_does_not_need_the_training_list(root: Path) -> None:
    tested = names(root, "test")
    listing(root, "trainlist01.txt").unlink()
    assert names(root, "test") == tested
    for part in ("train", "val"):
        fails(root, r"trainlist01\.txt", part)


def test_a_test_list_with_numbers_is_an_error(root: Path) -> None:
    path = listing(root, "testlist01.txt")
    path.write_text(path.read_text() + "Archery/x.avi 1\n")
    fails(root, "(?s)testlist01.txt:.*found 'Archery/x.avi 1', expected `<class>/<clip>`")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1 Archery", "0 Archery", "line 1: found '0 Archery', expected `1 <class>`, numbered from 1 on"),
        ("3 YoYo", "5 YoYo", "line 3: found '5 YoYo', expected `3 <class>`"),
        ("3 YoYo", "3", "line 3: found '3', expected `3 <class>`"),
        ("3 YoYo", "3 archery", "line 3: archery has a line already"),
    ],
)
def test_a_bad_line_of_classind_is_an_error_with_its_number(root: Path, old: str, new: str, message: str) -> None:
    path = listing(root, "classInd.txt")
    path.write_text(path.read_text().replace(old, new))
    fails(root, f"(?s)classInd.txt:.*{re.escape(message)}")


def test_a_class_of_classind_without_clips_is_an_error(root: Path) -> None:
    with listing(root, "classInd.txt").open("a") as file:
        file.write("5 Surfing\n")
    fails(root, "(?s)classes without training clips.*Surfing", classes=5)
    with listing(root, "trainlist01.txt").open("a") as file:
        file.write("Surfing/v_Surfing_g08_c01.avi 5\nSurfing/v_Surfing_g09_c01.avi 5\n")
    fails(root, "(?s)classes without test clips.*Surfing", classes=5)
    with listing(root, "testlist01.txt").open("a") as file:
        file.write("Surfing/v_Surfing_g01_c01.avi\n")
    fails(root, f"(?s){root}/UCF-101: classes without a folder.*Surfing", classes=5)


def test_a_clip_in_training_and_test_is_an_error_whatever_its_spelling(root: Path) -> None:
    with listing(root, "testlist01.txt").open("a") as file:
        file.write("HandStandPushups/v_HandstandPushups_g04_c01.avi\n")
    fails(root, r"(?s)clips listed twice.*v_HandstandPushups_g04_c01.avi: trainlist01.txt line \d+ and testlist01.txt")


def test_clips_that_are_not_on_disk_are_named_and_counted(root: Path) -> None:
    folder = root / "UCF-101" / "YoYo"
    for name in clips("YoYo", 2):
        (folder / name).unlink()
    total = len(listing(root, "testlist01.txt").read_text().splitlines())
    said = fails(root, f"(?s)3 of {total} listed clips are not on disk", "test")
    assert all(f"{folder / name} (testlist01.txt line" in said for name in clips("YoYo", 2))
    assert names(root, "train")


def test_another_number_of_classes_is_an_error_that_names_the_key(root: Path) -> None:
    fails(root, "has 4 classes .*but MODEL.NUM_CLASSES is 101: set MODEL.NUM_CLASSES 4", classes=101)
