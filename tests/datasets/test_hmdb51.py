"""HMDB51 in its official layout, made small: names with odd characters, three splits, validation, and every fault."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.official import OfficialDataset
from timesformer.datasets.catalog import load_split
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.records import SPLITS
from timesformer.datasets.sources.hmdb51 import film

hmdb51 = OfficialDataset("hmdb51", 3)
config, names, fails = hmdb51.config, hmdb51.names, hmdb51.fails

# Films of a class; each has two clips. The list is written in this order, which is not that of the classes.
FILMS = {
    "wave": [
        "#437_Hello",
        "A&B=C;D@E",
        "Fellowship_2",
        "Fellowship_5",
        "x_%d_y",
        "Farewell",
        "Queen",
        "Ship",
        "_Train_",
    ],
    "brush_hair": ["(Rad)Schlag!", "[_NEW_AUDIO_]", "April_09", "Soap", "KATE++", "Home 's", "Star", "Zorro", "21"],
    "ride_bike": ["Alps", "Berlin", "Cuba", "Delft", "Essen", "Fes", "Genf", "Hull", "Izmir"],
}
CLASSES = ("brush_hair", "ride_bike", "wave")


def clips(label: str) -> list[str]:
    return [f"{name}_{label}_f_cm_np1_ba_med_{number}.avi" for name in FILMS[label] for number in range(2)]


def ids(number: int) -> list[int]:
    """Of 18 clips: 10 to train, 4 to test, 4 unused, turned by a film from split to split."""
    cycle = [1, 1, 1, 1, 1, 1, 2, 2, 0, 0, 1, 1, 1, 1, 2, 2, 0, 0]
    return cycle[2 * number :] + cycle[: 2 * number]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The official layout; the files are empty."""
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    for label in FILMS:
        folder = tmp_path / "hmdb51_org" / label
        folder.mkdir(parents=True)
        for name in clips(label):
            (folder / name).touch()
        for number in (1, 2, 3):
            lines = [f"{name} {part} \n" for name, part in zip(clips(label), ids(number), strict=True)]
            (lists / f"{label}_test_split{number}.txt").write_text("".join(lines))
    return tmp_path


def list_of(root: Path, label: str, split: int = 1) -> Path:
    return root / "testTrainMulti_7030_splits" / f"{label}_test_split{split}.txt"


@pytest.mark.parametrize("split", [1, 2, 3])
def test_each_split_trains_validates_and_tests_on_its_own_clips(root: Path, split: int) -> None:
    listed = {
        part: [f"{c}/{n}" for c in CLASSES for n, found in zip(clips(c), ids(split), strict=True) if found == part]
        for part in (1, 2)
    }
    train, val = names(root, "train", split=split), names(root, "val", split=split)
    assert sorted(train + val) == sorted(listed[1])
    assert names(root, "test", split=split) == listed[2]
    for label in CLASSES:
        assert len([name for name in val if name.startswith(label)]) == 2  # of 10: a film has 2 clips


def test_labels_are_the_alphabetical_order_of_the_classes_and_paths_those_on_disk(root: Path) -> None:
    found = load_split(config(root), "test")
    assert found.class_names == CLASSES
    for record in found.records:
        assert CLASSES[record.label] == record.name.split("/")[0]
        assert record.path == str(root / "hmdb51_org" / record.name)
        assert Path(record.path).is_file()


def test_films_are_not_divided_between_training_and_validation(root: Path) -> None:
    def films(part: str, split: int) -> set[tuple[str, str]]:
        return {
            (name.split("/")[0], film(name.split("/")[1], name.split("/")[0]))
            for name in names(root, part, split=split)
        }

    for split in (1, 2, 3):
        assert films("train", split).isdisjoint(films("val", split))


def test_validation_is_the_same_whatever_the_seed_and_grows_with_its_share(root: Path) -> None:
    cfg = config(root)
    before = list(load_split(cfg, "val").records.names)
    cfg.RNG_SEED = 77
    assert list(load_split(cfg, "val").records.names) == before
    cfg.DATA.VAL_FRACTION = 0.4
    assert set(before) < set(load_split(cfg, "val").records.names)


@pytest.mark.parametrize(
    ("clip", "label", "expected"),
    [
        ("The_Fugitive_2_run_f_cm_np1_fr_med_1.avi", "run", "The_Fugitive"),
        ("NOVA_ELEGANTUNIVERSE3_sit_f_nm_np1_fr_med_2.avi", "sit", "NOVA_ELEGANTUNIVERSE"),
        ("kick__Baddest_Fight_-_Part_1_of_2_kick_u_cm_np1_ba_med_6.avi", "kick", "kick__Baddest_Fight_-_Part_1_of"),
        ("21_drink_u_nm_np1_fr_goo_9", "drink", "21"),
        ("20060723sfjffinallseriousness_run_f_cm_np2_ba_med_2.mp4", "run", "20060723sfjffinallseriousness"),
        ("run_and_run_u_nm_np10_le_bad_2.avi", "run", "run_and"),
        ("unheard_of.avi", "run", "unheard_of"),
    ],
)
def test_the_film_of_a_clip_is_told_by_its_name(clip: str, label: str, expected: str) -> None:
    assert film(clip, label) == expected


def test_clips_with_odd_names_are_read_with_their_own_label(root: Path, make_video: Callable[..., Path]) -> None:
    cfg = config(root, NUM_FRAMES=2, SAMPLING_RATE=1, TRAIN_CROP_SIZE=16, TEST_CROP_SIZE=16)
    cfg.TEST.NUM_ENSEMBLE_VIEWS = cfg.TEST.NUM_SPATIAL_CROPS = 1
    brightness = {}
    for number, record in enumerate([r for part in SPLITS for r in load_split(cfg, part).records]):
        brightness[record.name] = 20 + 5 * number
        make_video(Path(record.path), [np.full((24, 32, 3), 20 + 5 * number, np.uint8)] * 2)
    for part in SPLITS:
        dataset = ClipDataset(cfg, part)
        for item in (dataset[index] for index in range(len(dataset))):
            name = dataset.records[item["video"]].name
            assert item["errors"] == {}
            assert abs(item["clip"].float().mean() - brightness[name]) < 2.5
            assert CLASSES[item["label"]] == name.split("/")[0]
    assert {"#", "&", ";", "=", "@", "(", "[", "%", " "} <= set("".join(brightness))


@pytest.mark.parametrize("place", ["with the classes", "in a folder above them", "elsewhere"])
def test_lists_and_class_folders_are_found_where_they_commonly_lie(root: Path, tmp_path: Path, place: str) -> None:
    expected, options = names(root, "test"), {}
    lists = root / "testTrainMulti_7030_splits"
    if place == "with the classes":
        for path in (root / "hmdb51_org").iterdir():
            path.rename(root / path.name)
    elif place == "in a folder above them":
        (root / "test_train_splits").mkdir()
        lists.rename(root / "test_train_splits" / lists.name)
    else:
        options = {"SPLITS_DIR": str(lists.rename(tmp_path / "mine"))}
        root /= "hmdb51_org"
    assert names(root, "test", **options) == expected


def test_frames_and_files_encoded_anew_stand_for_the_listed_avi(root: Path) -> None:
    expected = names(root, "test")
    found = [Path(record.path) for record in load_split(config(root), "test").records]
    found[0].unlink()
    found[0].with_suffix("").mkdir()
    found[1].rename(found[1].with_suffix(".mp4"))
    again = load_split(config(root), "test").records
    assert list(again.names) == expected
    assert [record.path for record in again][:3] == [
        str(found[0].with_suffix("")),
        str(found[1].with_suffix(".mp4")),
        str(found[2]),
    ]


def test_the_counts_are_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "timesformer")
    for part in ("train", "val", "test"):
        load_split(config(root, split=2), part)
    lists = root / "testTrainMulti_7030_splits"
    assert caplog.messages == [
        f"train: 24 of 30 training clips of split 2 of {lists}",
        f"val: 6 of 30 training clips of split 2 of {lists}",
        f"test: 12 test clips of split 2 of {lists}",
    ]


# ---------------------------------------------------------------- faults


def test_no_lists_at_all_is_an_error_that_says_where_they_are_looked_for(root: Path) -> None:
    shutil.rmtree(root / "testTrainMulti_7030_splits")
    fails(root, rf"{root} has no official split files: expected \*_test_split\?.txt .*set DATA.SPLITS_DIR")


def test_a_class_without_its_list_is_an_error_that_names_the_file(root: Path) -> None:
    list_of(root, "wave", 2).unlink()
    fails(root, "(?s)lists of DATA.SPLIT 2 that are not there.*wave_test_split2.txt", split=2)
    assert names(root, "test", split=1)
    shutil.rmtree(root / "hmdb51_org" / "wave")
    fails(root, "(?s)classes without a folder.*wave", split=1)


def test_a_class_that_no_list_knows_is_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in (1, 2, 3):
        list_of(root, "wave", split).unlink()
    fails(root, "has 2 classes .*but MODEL.NUM_CLASSES is 3: set MODEL.NUM_CLASSES 2")
    assert "videos in folders that no list calls a class are not used: wave" in caplog.text


@pytest.mark.parametrize("line", ["Alps_ride_bike_f_cm_np1_ba_med_0.avi 3", "Alps.avi", "Alps.avi 1x", "Alps.avi -1"])
def test_an_unknown_id_is_an_error_with_file_and_line(root: Path, line: str) -> None:
    path = list_of(root, "ride_bike")
    path.write_text(f"\n{line}\n" + path.read_text())
    fails(root, f"(?s)ride_bike_test_split1.txt line 2: found '{re.escape(line)}', expected `clip id`")


def test_an_empty_list_is_an_error(root: Path) -> None:
    list_of(root, "wave").write_text(" \n")
    fails(root, "wave_test_split1.txt is empty")


def test_a_clip_in_training_and_test_is_an_error_with_both_lines(root: Path) -> None:
    with list_of(root, "wave").open("a") as file:
        file.write(f"{clips('wave')[0]} 2\n")
    fails(root, r"(?s)clips listed twice.*#437_Hello.*wave_test_split1.txt line 1 and wave_test_split1.txt line 19")


@pytest.mark.parametrize(("part", "what"), [("1", "training"), ("2", "test")])
def test_a_class_with_nothing_to_train_or_test_on_is_an_error(root: Path, part: str, what: str) -> None:
    path = list_of(root, "wave")
    path.write_text(path.read_text().replace(f" {part} \n", " 0 \n"))
    fails(root, f"(?s)classes without {what} clips.*wave")


def test_a_class_with_a_single_training_clip_is_an_error(root: Path) -> None:
    path = list_of(root, "wave")
    path.write_text(path.read_text().replace(" 1 \n", " 0 \n") + "one.avi 1\n")
    fails(root, r"(?s)classes with a single training clip.*wave.*DATA\.VAL_FRACTION")


def test_clips_that_are_not_on_disk_are_named_and_counted(root: Path) -> None:
    for path in (root / "hmdb51_org" / "wave").iterdir():
        path.unlink()
    said = fails(root, "(?s)4 of 12 listed clips are not on disk", "test")
    assert f"{root / 'hmdb51_org' / 'wave' / clips('wave')[4]} (wave_test_split1.txt line 5)" in said
    assert said.count("wave_test_split1.txt line") == 4


def test_no_class_folder_anywhere_is_an_error(root: Path) -> None:
    (root / "hmdb51_org").rename(root / "far")
    (root / "deeper").mkdir()
    (root / "far").rename(root / "deeper" / "far")
    fails(root, f"{root} holds no class folders, nor does a folder in it.*brush_hair, ride_bike, wave")


def test_class_folders_in_two_places_are_an_error_that_names_both(root: Path) -> None:
    shutil.copytree(root / "hmdb51_org", root / "small")
    said = fails(root, "set DATA.PATH_TO_DATA_DIR to the one meant")
    assert f"{root / 'hmdb51_org'} and in {root / 'small'}" in said


def test_another_number_of_classes_is_an_error_that_names_the_key(root: Path) -> None:
    fails(root, "has 3 classes .*but MODEL.NUM_CLASSES is 51: set MODEL.NUM_CLASSES 3", classes=51)


def test_a_missing_data_folder_is_an_error_that_names_the_key(root: Path) -> None:
    lists = str(root / "testTrainMulti_7030_splits")
    fails(root / "gone", "DATA.PATH_TO_DATA_DIR is .*gone, which is not a folder", SPLITS_DIR=lists)
