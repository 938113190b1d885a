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
    FILMS = ("#437_Hello", "A&B=C;D@E", "Fellowship_2", "(Rad)Schlag!", "x_%d_y", "[_NEW_AUDIO_]", "Home 's", "_Train_")
    CYCLE = (1, 1, 1, 1, 1, 1, 2, 2, 0, 0, 1, 1, 1, 1, 2, 2)

    def clips(self, label: str, split: int) -> list[tuple[str, int]]:
        """The 16 clips of a class, two of each film, and their ids: 10 to train, 4 to test, 2 unused."""
        names = [f"{name}_{label}_f_cm_np1_ba_med_{number}.avi" for name in self.FILMS for number in range(2)]
        return list(zip(names, self.CYCLE[2 * split :] + self.CYCLE[: 2 * split], strict=True))

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for label in self.CLASSES:
            for split in (1, 2, 3):
                clips = self.clips(label, split)
                write(self.list_of(tmp_path, label, split), *(f"{name} {part} " for name, part in clips))
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
        assert {name[:-6] for name in train}.isdisjoint(name[:-6] for name in val)  # films
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

    @pytest.mark.parametrize("layout", ["with the classes", "one level below", "elsewhere"])
    def test_lists_and_class_folders_may_be_elsewhere(self, root: Path, tmp_path: Path, layout: str) -> None:
        expected, options = names_of(self.make(root), "test"), {}
        lists = root / "testTrainMulti_7030_splits"
        if layout == "with the classes":
            for path in (root / "hmdb51_org").iterdir():
                path.rename(root / path.name)
        elif layout == "one level below":
            (root / "test_train_splits").mkdir()
            lists.rename(root / "test_train_splits" / lists.name)
        else:
            options = {"SPLITS_DIR": str(lists.rename(tmp_path / "lists"))}
            root /= "hmdb51_org"
        assert names_of(self.make(root, **options), "test") == expected

    @pytest.mark.parametrize("line", ["Alps.avi 3", "Alps.avi"])
    def test_bad_lines_are_errors(self, root: Path, line: str) -> None:
        path = self.list_of(root, "ride_bike")
        write(path, "", line, *path.read_text().splitlines())
        assert_fails(self.make(root), "ride_bike_test_split1.txt line 2")

    @pytest.mark.parametrize("part", ["1", "2"])
    def test_classes_without_clips_are_errors(self, root: Path, part: str) -> None:
        path = self.list_of(root, "wave")
        path.write_text(path.read_text().replace(f" {part} \n", " 0 \n"))
        assert_fails(self.make(root), "wave")

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
        shutil.rmtree(root / "testTrainMulti_7030_splits")
        assert_fails(self.make(root), "DATA.SPLITS_DIR")


class TestUCF101:
    make = staticmethod(partial(make_cfg, "ucf101", num_classes=4))
    CLASSES = ("Archery", "HandstandPushups", "YoYo", "Biking")  # in the order of classInd.txt

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """Six groups of one to three clips of each class; split N tests on the groups 2N-1 and 2N."""
        write(tmp_path / "ucfTrainTestlist/classInd.txt", *(f"{n} {c}\r" for n, c in enumerate(self.CLASSES, 1)))
        clips = [
            (f"{label}/v_{label.replace('stand', 'Stand')}_g{group:02}_c{number:02}.avi", index, group)
            for index, label in enumerate(self.CLASSES, 1)
            for group in range(1, 7)
            for number in range(1, 2 + group % 3)
        ]
        for name, _, _ in clips:
            write(tmp_path / "UCF-101" / name)
        for split in (1, 2, 3):
            tested = (2 * split - 1, 2 * split)
            train = [f"{name} {index}\r" for name, index, group in clips if group not in tested]
            write(tmp_path / f"ucfTrainTestlist/trainlist0{split}.txt", *train)
            test = [f"{name}\r" for name, _, group in clips if group in tested]
            write(tmp_path / f"ucfTrainTestlist/testlist0{split}.txt", *test)
        return tmp_path

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
        groups = [{re.sub(r"_c\d+\.avi", "", name) for name in names} for names in (train, val)]
        assert groups[0].isdisjoint(groups[1])
        assert sorted(group.split("/")[0] for group in groups[1]) == sorted(self.CLASSES)
        found = load_split(cfg, "test")
        assert found.class_names == self.CLASSES
        assert all(record.path == f"{root}/UCF-101/{record.name}" for record in found.records)
        assert [self.CLASSES[record.label] for record in found.records] == [name.split("/")[0] for name in tested]

    @pytest.mark.parametrize("pattern", ["ucfTrainTestlist/t*", "ucfTrainTestlist/c*", "UCF-101/H*", "UCF-101/H*/*"])
    def test_case_is_ignored(self, root: Path, pattern: str) -> None:
        for path in list(root.glob(pattern)):
            if path.suffix == ".txt":
                path.write_text(path.read_text().replace("Handstand", "HandStand"))
            else:
                path.rename(path.with_name(path.name.swapcase()))
        found = [Path(record.path) for record in load_split(self.make(root), "test").records if record.label == 1]
        assert len(found) == 5
        assert all(path.is_file() for path in found)

    @pytest.mark.parametrize("line", ["Archery/x.avi", "v_Archery_g04_c01.avi 1", "Archery/x.avi 3", "Surfing/x.avi 5"])
    def test_bad_lines_are_errors(self, root: Path, line: str) -> None:
        path = root / "ucfTrainTestlist/trainlist01.txt"
        write(path, "", line, *path.read_text().splitlines())
        assert_fails(self.make(root), "trainlist01.txt", "line 2", split="test")

    @pytest.mark.parametrize(("old", "new", "line"), [("1 Archery", "0 Archery", 1), ("3 YoYo", "3 archery", 3)])
    def test_bad_class_lists_are_errors(self, root: Path, old: str, new: str, line: int) -> None:
        path = root / "ucfTrainTestlist/classInd.txt"
        path.write_text(path.read_text().replace(old, new))
        assert_fails(self.make(root), "classInd.txt", f"line {line}")

    def test_training_list_is_not_needed_for_testing(self, root: Path) -> None:
        tested = names_of(self.make(root), "test")
        (root / "ucfTrainTestlist/trainlist01.txt").unlink()
        assert names_of(self.make(root), "test") == tested
        assert_fails(self.make(root), "trainlist01.txt")

    def test_clips_in_both_lists_are_errors(self, root: Path) -> None:
        with (root / "ucfTrainTestlist/testlist01.txt").open("a") as file:
            file.write("HandStandPushups/v_HandstandPushups_g04_c01.avi\n")
        assert_fails(self.make(root), "v_HandstandPushups_g04_c01.avi", "trainlist01.txt line", "testlist01.txt line")


class TestHoldOut:
    @staticmethod
    def clips(*sizes: int) -> dict[str, str]:
        return {f"film{n}_{i}.avi": f"film{n}" for n, size in enumerate(sizes) for i in range(size)}

    @pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5, 0.9])
    def test_fraction_of_many_sources(self, fraction: float) -> None:
        sources = self.clips(*[1, 2, 3] * 20)
        held = hold_out(sources, fraction)
        assert abs(len(held) - fraction * 120) <= 2
        assert {sources[name] for name in held}.isdisjoint(sources[name] for name in sources if name not in held)

    @pytest.mark.parametrize(
        ("sizes", "fraction", "number"),
        [((50, 40), 0.1, 40), ((30, 60, 1), 0.05, 1), ((8,), 0.2, 2), ((2,), 0.1, 1), ((1, 1), 0.9, 1), ((1,), 0.5, 0)],
    )
    def test_at_least_one_and_never_all(self, sizes: tuple[int, ...], fraction: float, number: int) -> None:
        assert len(hold_out(self.clips(*sizes), fraction)) == number

    def test_choice_depends_on_names_only(self) -> None:
        sources = self.clips(*[1] * 30)
        held = hold_out(sources, 0.2)
        assert hold_out(dict(reversed(sources.items())), 0.2) == held
        # Recorded, so that later versions validate on the same clips.
        assert held == {f"film{n}_0.avi" for n in (1, 3, 7, 9, 10, 13)}
