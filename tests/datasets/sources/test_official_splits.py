"""HMDB51 and UCF101 in their official layouts, and the clips held out for validation."""

import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.datasets.sources.common import assert_fails, make_cfg, names_of, write
from timesformer.datasets.catalog import load_split
from timesformer.datasets.sources.official_splits import film, hold_out


class TestHMDB51:
    make = staticmethod(partial(make_cfg, "hmdb51", num_classes=3))
    CLASSES = ("brush_hair", "ride_bike", "wave")
    # Films with two clips each.
    FILMS = (
        *("#437_Hello", "A&B=C;D@E", "Fellowship_2", "(Rad)Schlag!", "x_%d_y", "[_NEW_AUDIO_]", "Queen", "Home 's"),
        "_Train_",
    )
    CYCLE = (1, 1, 1, 1, 1, 1, 2, 2, 0, 0, 1, 1, 1, 1, 2, 2, 0, 0)

    def clips(self, label: str, split: int) -> list[tuple[str, int]]:
        """The 18 clips of a class and their ids: 10 to train, 4 to test, 4 unused."""
        names = [f"{name}_{label}_f_cm_np1_ba_med_{number}.avi" for name in self.FILMS for number in range(2)]
        return list(zip(names, self.CYCLE[2 * split :] + self.CYCLE[: 2 * split], strict=True))

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for label in self.CLASSES:
            for split in (1, 2, 3):
                clips = self.clips(label, split)
                lists = tmp_path / "testTrainMulti_7030_splits"
                write(lists / f"{label}_test_split{split}.txt", *(f"{name} {part} " for name, part in clips))
            for name, _ in clips:
                write(tmp_path / "hmdb51_org" / label / name)
        return tmp_path

    @staticmethod
    def list_of(root: Path, label: str, split: int = 1) -> Path:
        return root / "testTrainMulti_7030_splits" / f"{label}_test_split{split}.txt"

    @pytest.mark.parametrize("split", [1, 2, 3])
    def test_splits_are_the_official_ones(self, root: Path, split: int) -> None:
        cfg = self.make(root, SPLIT=split)
        listed = {
            part: [f"{label}/{name}" for label in self.CLASSES for name, own in self.clips(label, split) if own == part]
            for part in (1, 2)
        }
        train, val = names_of(cfg, "train"), names_of(cfg, "val")
        assert sorted(train + val) == sorted(listed[1])
        assert names_of(cfg, "test") == listed[2]
        assert [sum(name.startswith(label) for name in val) for label in self.CLASSES] == [2, 2, 2]
        films = [
            {film(name.split("/")[1], name.split("/")[0]) + name.split("/")[0] for name in n} for n in (train, val)
        ]
        assert films[0].isdisjoint(films[1])
        found = load_split(cfg, "test")
        assert found.class_names == self.CLASSES
        for record in found.records:
            assert self.CLASSES[record.label] == record.name.split("/")[0]
            assert record.path == str(root / "hmdb51_org" / record.name)

    @pytest.mark.parametrize(
        ("clip", "label", "expected"),
        [
            ("The_Fugitive_2_run_f_cm_np1_fr_med_1.avi", "run", "The_Fugitive"),
            ("kick__Baddest_Fight_-_Part_1_of_2_kick_u_cm_np1_ba_med_6.avi", "kick", "kick__Baddest_Fight_-_Part_1_of"),
            ("21_drink_u_nm_np1_fr_goo_9", "drink", "21"),
            ("run_and_run_u_nm_np10_le_bad_2.avi", "run", "run_and"),
            ("unheard_of.avi", "run", "unheard_of"),
        ],
    )
    def test_film_of_a_clip(self, clip: str, label: str, expected: str) -> None:
        assert film(clip, label) == expected

    @pytest.mark.parametrize("where", ["with the classes", "one level below", "elsewhere"])
    def test_lists_and_class_folders_may_be_elsewhere(self, root: Path, tmp_path: Path, where: str) -> None:
        expected, options = names_of(self.make(root), "test"), {}
        lists = root / "testTrainMulti_7030_splits"
        if where == "with the classes":
            for path in (root / "hmdb51_org").iterdir():
                path.rename(root / path.name)
        elif where == "one level below":
            (root / "test_train_splits").mkdir()
            lists.rename(root / "test_train_splits" / lists.name)
        else:
            options = {"SPLITS_DIR": str(lists.rename(tmp_path / "lists"))}
            root /= "hmdb51_org"
        assert names_of(self.make(root, **options), "test") == expected

    @pytest.mark.parametrize("line", ["A_ride_bike_f_cm_np1_ba_med_0.avi 3", "Alps.avi", "Alps.avi 1x", "Alps.avi -1"])
    def test_bad_lines_are_errors(self, root: Path, line: str) -> None:
        path = self.list_of(root, "ride_bike")
        write(path, "", line, *path.read_text().splitlines())
        assert_fails(self.make(root), "ride_bike_test_split1.txt line 2")

    @pytest.mark.parametrize("part", ["1", "2"])
    def test_classes_without_clips_are_errors(self, root: Path, part: str) -> None:
        path = self.list_of(root, "wave")
        path.write_text(path.read_text().replace(f" {part} \n", " 0 \n"))
        assert_fails(self.make(root), "wave")
        if part == "1":
            path.write_text(path.read_text() + "one.avi 1\n")
            assert_fails(self.make(root), "wave", "DATA.VAL_FRACTION")

    def test_missing_files_are_errors(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        wave = root / "hmdb51_org/wave"
        for name, _ in self.clips("wave", 1):
            (wave / name).rename(root / name)
        assert_fails(self.make(root), "wave_test_split1.txt line", "DATA.MAX_MISSING_FRACTION", split="test")
        wave.rmdir()
        assert_fails(self.make(root), "wave")
        self.list_of(root, "wave", 2).unlink()
        assert_fails(self.make(root, SPLIT=2), "wave_test_split2.txt")
        for path in (root / "testTrainMulti_7030_splits").glob("[wr]*"):
            path.unlink()
        assert_fails(self.make(root), "MODEL.NUM_CLASSES 1")
        assert "ride_bike" in caplog.text  # its videos are not used
        shutil.copytree(root / "hmdb51_org", root / "small")
        assert_fails(self.make(root), root / "hmdb51_org", root / "small", "DATA.PATH_TO_DATA_DIR")
        shutil.rmtree(root / "small")
        shutil.rmtree(root / "hmdb51_org")
        assert_fails(self.make(root), "DATA.PATH_TO_DATA_DIR")
        shutil.rmtree(root / "testTrainMulti_7030_splits")
        assert_fails(self.make(root), "DATA.SPLITS_DIR")


class TestUCF101:
    make = staticmethod(partial(make_cfg, "ucf101", num_classes=4))
    CLASSES = ("Archery", "HandstandPushups", "YoYo", "Biking")  # in the order of classInd.txt
    TESTED = {1: (1, 2), 2: (3, 4), 3: (5, 6)}  # groups of 6  # noqa: RUF012

    @staticmethod
    def clips(label: str, group: int) -> list[str]:
        name = "HandStandPushups" if label == "HandstandPushups" else label
        return [f"v_{name}_g{group:02}_c{number:02}.avi" for number in range(1, 2 + group % 3)]

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        write(tmp_path / "ucfTrainTestlist/classInd.txt", *(f"{n} {c}\r" for n, c in enumerate(self.CLASSES, 1)))
        clips = [
            (n, c, g, name) for n, c in enumerate(self.CLASSES, 1) for g in range(1, 7) for name in self.clips(c, g)
        ]
        for _, label, _, name in clips:
            write(tmp_path / "UCF-101" / label / name)
        for split, tested in self.TESTED.items():
            train = [f"{label}/{name} {number}\r" for number, label, group, name in clips if group not in tested]
            test = [f"{label}/{name}\r" for _, label, group, name in clips if group in tested]
            write(tmp_path / f"ucfTrainTestlist/trainlist0{split}.txt", *train)
            write(tmp_path / f"ucfTrainTestlist/testlist0{split}.txt", *test)
        return tmp_path

    @staticmethod
    def groups(names: list[str]) -> set[tuple[str, int]]:
        return {(name.split("/")[0], int(re.search(r"_g(\d+)_", name)[1])) for name in names}

    @pytest.mark.parametrize("split", [1, 2, 3])
    def test_splits_are_the_official_ones(self, root: Path, split: int) -> None:
        cfg = self.make(root, SPLIT=split)
        trained, tested = (
            [line.split()[0] for line in (root / f"ucfTrainTestlist/{part}list0{split}.txt").read_text().splitlines()]
            for part in ("train", "test")
        )
        train, val = names_of(cfg, "train"), names_of(cfg, "val")
        assert sorted(train + val) == sorted(trained)
        assert names_of(cfg, "test") == tested
        assert self.groups(train).isdisjoint(self.groups(val))
        assert sorted(label for label, _ in self.groups(val)) == sorted(self.CLASSES)
        found = load_split(cfg, "test")
        assert found.class_names == self.CLASSES
        assert all(record.path == f"{root}/UCF-101/{record.name}" for record in found.records)
        assert [self.CLASSES[record.label] for record in found.records] == [name.split("/")[0] for name in tested]

    @pytest.mark.parametrize("where", ["lists", "folder", "files", "classInd"])
    def test_case_is_ignored(self, root: Path, where: str) -> None:
        folder = root / "UCF-101/HandstandPushups"
        expected = [name.lower() for group in (1, 2) for name in self.clips("HandstandPushups", group)]
        for file in (root / "ucfTrainTestlist").glob({"lists": "t*.txt", "classInd": "c*.txt"}.get(where, "none")):
            file.write_text(file.read_text().replace("HandstandPushups", "HandStandPushups"))
        if where == "files":
            for file in list(folder.iterdir()):
                file.rename(file.with_name(file.name.replace("HandStand", "Handstand")))
        elif where == "folder":
            folder.rename(folder.with_name("HandStandPushups"))
        found = [Path(record.path) for record in load_split(self.make(root), "test").records if record.label == 1]
        assert [path.name.lower() for path in found] == expected
        assert all(path.is_file() for path in found)

    @pytest.mark.parametrize(
        "line",
        [
            *("Archery/v_Archery_g04_c01.avi", "Archery/v_Archery_g04_c01.avi one 1", "v_Archery_g04_c01.avi 1"),
            *("Archery/ 1", "Archery/x.avi 3", "Archery/x.avi 0", "Archery/x.avi 1.0", "Surfing/x.avi 5"),
        ],
    )
    def test_bad_lines_are_errors(self, root: Path, line: str) -> None:
        path = root / "ucfTrainTestlist/trainlist01.txt"
        write(path, "", line, *path.read_text().splitlines())
        assert_fails(self.make(root), "trainlist01.txt", "line 2", split="test")

    @pytest.mark.parametrize(
        ("old", "new", "line"),
        [("1 Archery", "0 Archery", 1), ("3 YoYo", "5 YoYo", 3), ("3 YoYo", "3", 3), ("3 YoYo", "3 archery", 3)],
    )
    def test_bad_class_lists_are_errors(self, root: Path, old: str, new: str, line: int) -> None:
        path = root / "ucfTrainTestlist/classInd.txt"
        path.write_text(path.read_text().replace(old, new))
        assert_fails(self.make(root), "classInd.txt", f"line {line}")

    def test_training_list_is_not_needed_for_testing(self, root: Path) -> None:
        tested = names_of(self.make(root), "test")
        (root / "ucfTrainTestlist/trainlist01.txt").unlink()
        assert names_of(self.make(root), "test") == tested
        for part in ("train", "val"):
            assert_fails(self.make(root), "trainlist01.txt", split=part)

    def test_clips_in_both_lists_are_errors(self, root: Path) -> None:
        with (root / "ucfTrainTestlist/testlist01.txt").open("a") as file:
            file.write("HandStandPushups/v_HandstandPushups_g04_c01.avi\n")
        assert_fails(self.make(root), "v_HandstandPushups_g04_c01.avi", "trainlist01.txt line", "testlist01.txt line")
        with (root / "ucfTrainTestlist/testlist01.txt").open("a") as file:
            file.write("Archery/x.avi 1\n")
        assert_fails(self.make(root), "testlist01.txt")


class TestHoldOut:
    @staticmethod
    def clips(*sizes: int, prefix: str = "film") -> dict[str, str]:
        return {f"{prefix}{n}_{i}.avi": f"{prefix}{n}" for n, size in enumerate(sizes) for i in range(size)}

    @pytest.mark.parametrize("fraction", [0.02, 0.1, 0.25, 0.5, 0.9])
    def test_fraction_of_many_sources(self, fraction: float) -> None:
        for prefix in ("a", "b", "c"):
            sources = self.clips(*[1, 2, 3] * 20, prefix=prefix)
            held = hold_out(sources, fraction)
            assert abs(len(held) - fraction * 120) <= 2
            assert {sources[name] for name in held}.isdisjoint(sources[name] for name in sources if name not in held)

    @pytest.mark.parametrize(
        ("sizes", "fraction", "number"),
        [
            ((50, 40), 0.1, 40),
            ((30, 60, 1), 0.05, 1),
            ((8,), 0.2, 2),
            ((2,), 0.1, 1),
            ((1, 1), 0.9, 1),
            ((1,), 0.5, 0),
        ],
    )
    def test_at_least_one_and_never_all(self, sizes: tuple[int, ...], fraction: float, number: int) -> None:
        assert len(hold_out(self.clips(*sizes), fraction)) == number

    def test_choice_depends_on_names_only(self) -> None:
        sources = self.clips(*[1] * 30)
        held = hold_out(sources, 0.2)
        assert hold_out(dict(reversed(sources.items())), 0.2) == held
        # Recorded, so that later versions validate on the same clips.
        assert held == {f"film{n}_0.avi" for n in (1, 3, 7, 9, 10, 13)}
