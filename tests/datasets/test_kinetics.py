"""Lists in the manner of Kinetics, and its own annotation files."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from timesformer.config import get_cfg
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import SPLITS, DataError, DatasetSplit, VideoRecord
from timesformer.datasets.sources import duplicates as matching
from timesformer.datasets.sources import kinetics

ROOT = Path(__file__).parents[2]


def config(root: Path, num_classes: int = 2, **data: str | float) -> CfgNode:
    cfg = get_cfg()
    cfg.DATA.PATH_TO_DATA_DIR = cfg.DATA.PATH_PREFIX = str(root)
    cfg.MODEL.NUM_CLASSES = num_classes
    cfg.DATA.update(data)
    return cfg


def found(root: Path, split: str = "train", **options) -> DatasetSplit:
    return load_split(config(root, **options), split)


def rows(root: Path, split: str = "train", **options) -> list[tuple[str, int]]:
    return [(record.name, record.label) for record in found(root, split, **options).records]


def fails(root: Path, message: str, split: str = "train", **options) -> str:
    with pytest.raises(DataError, match=message) as caught:
        found(root, split, **options)
    return str(caught.value)


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six clips w0 to w5, and a training list of w0 and w1."""
    for number in range(6):
        (tmp_path / f"w{number}").mkdir()
    write(tmp_path / "train.csv", "w0 0", "w1 1")
    return tmp_path


def test_paths_may_hold_blanks_and_get_the_prefix(root):
    (root / "my clips").mkdir()
    write(root / "train.csv", "\ufeffmy clips/a b.mp4 1  \r", "\r", "w0 0\r")
    assert found(root).records == (
        VideoRecord(str(root / "my clips/a b.mp4"), 1, "my clips/a b.mp4"),
        VideoRecord(str(root / "w0"), 0, "w0"),
    )
    assert found(root).class_names == ("0", "1")


@pytest.mark.parametrize("header", ["path,label", "video_name,class", "Filename,Label"])
def test_a_header_is_passed_over_and_quotes_are_taken_off(root, header):
    write(root / "train.csv", header, '"w0, ""cut""",1', "w1,0", '"w2","0"')
    assert rows(root, PATH_LABEL_SEPARATOR=",") == [('w0, "cut"', 1), ("w1", 0), ("w2", 0)]


def test_a_header_is_told_of_and_a_clip_that_is_called_like_one_is_kept(root, caplog):
    with caplog.at_level(logging.INFO):
        write(root / "train.csv", "", "path label", "w0 0")
        assert rows(root) == [("w0", 0)]
    assert "train.csv, line 2: 'path label' is taken for a header" in caplog.text
    for name in ("clip", "video", "name"):
        (root / name).mkdir()
    write(root / "train.csv", "clip 1", "w0 0")
    assert rows(root) == [("clip", 1), ("w0", 0)]
    write(root / "train.csv", "path label", "video wink", "w0 0")
    write(root / "classes.txt", "yawn", "wink")
    assert rows(root) == [("video", 1), ("w0", 0)]
    write(root / "train.csv", "name wink", "w0 0")
    assert rows(root) == [("name", 1), ("w0", 0)]


def test_numbers_get_their_names_from_classes_txt(root):
    write(root / "classes.txt", "yawn", "wink")
    assert rows(root) == [("w0", 0), ("w1", 1)]
    assert found(root).class_names == ("yawn", "wink")
    fails(root, "has 2 classes", num_classes=3)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["yawn", "", "yawn", "wink"], "(?s)classes.txt:.*line 3: yawn is the name of class 0 already"),
        (["1", "0"], "(?s)line 1: the class of number 0 is called 1, .*line 2: the class of number 1 is called 0"),
    ],
)
def test_a_classes_txt_that_shifts_labels_is_an_error(root, names, reason):
    write(root / "classes.txt", *names)
    fails(root, reason)
    write(root / "classes.txt", "0", "1")
    assert found(root).class_names == ("0", "1")


def test_names_get_their_numbers_from_classes_txt_and_may_stand_beside_numbers(root):
    write(root / "classes.txt", "yawn", "wink")
    write(root / "train.csv", "w0 wink", "w1 yawn", "w2 1")
    assert rows(root) == [("w0", 1), ("w1", 0), ("w2", 1)]
    write(root / "train.csv", "w0 wink", "w1 sleep")
    fails(root, "line 2: found the label 'sleep', expected 0 to 1 .* or a name in classes.txt")


def test_names_without_classes_txt_are_numbered_in_the_order_of_those_in_all_lists(root):
    write(root / "train.csv", "w0,zap it", "w1,blow")
    write(root / "val.csv", "w2,zap it", "w3,blow")
    write(root / "test.csv", "w4,moan", "w5,blow")
    options = {"num_classes": 3, "PATH_LABEL_SEPARATOR": ","}
    assert [rows(root, split, **options) for split in SPLITS] == [
        [("w0", 2), ("w1", 0)],
        [("w2", 2), ("w3", 0)],
        [("w4", 1), ("w5", 0)],
    ]
    assert all(found(root, split, **options).class_names == ("blow", "moan", "zap it") for split in SPLITS)


def test_paths_cut_at_the_wrong_place_are_not_taken_for_class_names(root):
    write(root / "train.csv", *[f"my clips/w{number},0" for number in range(5)])
    fails(root, r"5 different labels \(clips/w0,0, .*: set DATA.PATH_LABEL_SEPARATOR or MODEL.NUM_CLASSES")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("w2", "line 4: found 'w2', expected a path, ' ' and a label"),
        ("w2,0", "line 4: found 'w2,0'"),
        ("w2 one", "line 4: found the label 'one', expected 0 to 1"),
        ("w2 -1", "line 4: found the label '-1'"),
        ("w2 2", r"line 4: found the label '2', expected 0 to 1 \(MODEL.NUM_CLASSES\)"),
        ("w0 1", "line 4: w0 stands in line 1 already"),
    ],
)
def test_a_bad_line_is_an_error_with_its_number_beside_all_others(root, line, reason):
    write(root / "train.csv", "w0 1", "", "w1 00", line, "w3 0", "w4", "w5 1")
    message = fails(root, reason)
    assert str(root / "train.csv") in message
    assert "line 6: found 'w4'" in message


def test_of_very_many_bad_lines_the_first_are_shown_and_the_others_counted(root):
    write(root / "train.csv", "w0 0", *["w1"] * 1000)
    assert "line 6:" in (message := fails(root, "and 995 more"))
    assert "line 7:" not in message


def test_a_list_with_nothing_but_a_header_is_an_error(root):
    write(root / "train.csv", "path label")
    fails(root, "train.csv has a header but no videos")


def test_a_video_may_be_in_val_and_test_but_not_in_train_too(root):
    for split in ("val", "test"):
        write(root / f"{split}.csv", "w2 0", "w3 1")
    assert [rows(root, split) for split in ("val", "test")] == [[("w2", 0), ("w3", 1)]] * 2
    write(root / "test.csv", "w2 0", "w1 1")
    for split in ("train", "test"):
        fails(root, r"(?s)in both .*w1: \w+.csv line 2, \w+.csv line 2", split=split)


@pytest.mark.parametrize("path", ["./w1", ".//w1", "w0/../w1"])
def test_a_video_is_known_by_another_spelling_of_its_path(root, path):
    write(root / "test.csv", "w2 0", f"{path} 1")
    fails(root, f"(?s)in both .*{re.escape(path)}: test.csv line 2, train.csv line 2", split="test")
    write(root / "train.csv", "w0 0", "w1 1", f"{path} 1")
    fails(root, f"line 3: {re.escape(path)} stands in line 2 already")


def test_paths_of_which_none_exists_are_an_error_that_names_the_prefix(root):
    fails(root, r"none of its first videos exists.*\(line 1\).*DATA\.PATH_PREFIX", PATH_PREFIX="/nowhere")
    write(root / "train.csv", "a b/w0,0", "b b/w1,1")  # a path that ends at the blank in it
    fails(root, r"none of its first videos exists, e.g. .*/a \(line 1\).*DATA.PATH_LABEL_SEPARATOR \(now ' '\)")


def test_labels_that_end_below_num_classes_are_warned_of(root, caplog):
    with caplog.at_level(logging.WARNING):
        rows(root, num_classes=400)
    assert "labels end at 1, but MODEL.NUM_CLASSES is 400" in caplog.text


def test_a_missing_list_is_an_error_that_says_what_is_expected(tmp_path):
    fails(tmp_path, "train.csv not found: expected lines `path label`")


def test_videos_whose_hashes_are_equal_are_told_apart(root, monkeypatch):
    for module in (kinetics, matching):
        monkeypatch.setattr(module, "hash", lambda text: 7, raising=False)
    write(root / "test.csv", "w2 0", "w3 1", "w4 0")
    assert len(rows(root, "test")) == 3
    write(root / "test.csv", "w2 0", "w3 1", "w2 0")
    fails(root, "line 3: w2 stands in line 1 already", "test")
    write(root / "test.csv", "w2 0", "w3 1", "w1 0")
    fails(root, "w1: test.csv line 3, train.csv line 2", "test")


OPEN_AND_FORK = """
import json, os, sys
from timesformer.config import get_cfg
from timesformer.datasets.clips import ClipDataset

cfg = get_cfg()
cfg.DATA.PATH_TO_DATA_DIR = cfg.DATA.PATH_PREFIX = sys.argv[1]
dataset = ClipDataset(cfg, "train")

def private_megabytes():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private")) / 1024

print(json.dumps([len(dataset), dataset.records[len(dataset) - 1].name]), flush=True)
if os.fork() == 0:  # as a DataLoader worker starts
    before = private_megabytes()
    for number in range(0, len(dataset), 10):
        dataset.records[number]
    print(json.dumps(private_megabytes() - before), flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is measured from Linux' /proc")
def test_a_list_of_250_000_videos_is_opened_whole_and_shared_with_dataloader_workers(root):
    with open(root / "train.csv", "w") as file:
        file.write("w0 0\n")
        file.writelines(f"clips/class_{n % 400:03d}/{n:010d}_000010_000020.mp4 {n % 400}\n" for n in range(1, 250_000))
    command = [sys.executable, "-c", OPEN_AND_FORK, str(root)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    opened, private = map(json.loads, said.splitlines())
    assert opened == [250_000, "clips/class_399/0000249999_000010_000020.mp4"]
    # A Python object for each video has a reference count, and reading it copies its page: 12 MB of paths at least.
    assert private < 5


class TestAnnotations:
    """Kinetics' own files: label,youtube_id,time_start,time_end,split."""

    HEADER = "label,youtube_id,time_start,time_end,split,is_cc"
    ZAP = "-_aaaaaaaa0_000001_000011.mp4"

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """Two classes: clips in folders of their class, without folders, and as frames."""
        write(tmp_path / "train.csv", self.HEADER, '"zap, it",-_aaaaaaaa0,1,11,train,0', "air drumming,b,10,20,train,0")
        write(tmp_path / "validate.csv", self.HEADER, "air drumming,c,0,10,validate,0")
        write(tmp_path / "test.csv", self.HEADER, '"zap, it",d,0.0,10.0,test,1')
        write(tmp_path / "train/zap_it" / self.ZAP)
        write(tmp_path / "b_000010_000020.mkv")
        write(tmp_path / "val/air drumming/c_000000_000010/000001.jpg")
        write(tmp_path / "d_000000_000010.mp4")
        return tmp_path

    def test_clips_are_found_wherever_they_lie(self, root):
        assert found(root).class_names == ("air drumming", "zap, it")
        assert found(root).records == (
            VideoRecord(
                f"{root}/train/zap_it/-_aaaaaaaa0_000001_000011.mp4", 1, "train/zap_it/-_aaaaaaaa0_000001_000011.mp4"
            ),
            VideoRecord(f"{root}/b_000010_000020.mkv", 0, "b_000010_000020.mkv"),
        )
        assert rows(root, "val") == [("val/air drumming/c_000000_000010", 0)]
        assert rows(root, "test") == [("d_000000_000010.mp4", 1)]

    def test_classes_txt_gives_the_order_of_the_classes(self, root):
        write(root / "classes.txt", "zap, it", "air drumming")
        assert rows(root, "test") == [("d_000000_000010.mp4", 0)]
        write(root / "classes.txt", "zap, it", "air")
        fails(root, "(?s)no class of classes.txt:.*air drumming")

    def test_clips_that_were_not_downloaded_stop_the_run_or_are_left_out_and_named(self, root, caplog):
        write(root / "train.csv", *(root / "train.csv").read_text().split("\n")[:3], "air drumming,gone,1,11,train,0")
        fails(
            root,
            "1 of 3 listed clips are not on disk.*(?s:.*)line 4: gone_000001_000011(?s:.*)MAX_MISSING_FRACTION 0.34",
        )
        assert len(rows(root, MAX_MISSING_FRACTION=0.34)) == 2
        assert "1 of 3 listed clips are not on disk and left out: line 4: gone_000001_000011" in caplog.text
        fails(root, "1 of 3 listed clips", MAX_MISSING_FRACTION=0.33)
        (root / "d_000000_000010.mp4").unlink()
        fails(root, "(?s)1 of 1 listed clips are not on disk.*set DATA.PATH_PREFIX", "test", MAX_MISSING_FRACTION=1.0)

    def test_a_class_of_which_nothing_was_downloaded_is_an_error(self, root):
        (root / "b_000010_000020.mkv").unlink()
        fails(root, "(?s)classes without training clips.*air drumming", MAX_MISSING_FRACTION=0.5)

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("a,b,1", "line 2: found 'a,b,1', expected 'label,youtube_id,time_start,time_end,split,is_cc'"),
            (",b,1,11,test,0", "line 2: found ',b,1,11,test,0'"),
            ("a,b,one,11,test,0", "line 2: time_start 'one' and time_end '11', expected seconds"),
            ("a,d,0,10,test,0", "line 3: d_000000_000010 stands in line 2 already"),
            (
                "a,b,10,20,test,0",
                "(?s)clips in both test.csv and train.csv:.*b_000010_000020: test.csv line 2, train.csv line 3",
            ),
        ],
    )
    def test_a_bad_line_is_an_error_with_its_number(self, root, line, reason):
        write(root / "test.csv", self.HEADER, line, "air drumming,d,0,10,test,0")
        fails(root, reason, "test")

    def test_a_test_list_without_labels_says_what_to_test_on(self, root):
        write(root / "test.csv", "youtube_id,time_start,time_end,split", "d,0,10,test")
        fails(root, "test.csv has no labels: to test on the validation list, copy that to test.csv", "test")
        assert len(rows(root)) == 2


def test_equal_strings_are_found_among_many():
    strings, others = ["b", "a", "b", "c", "a", "b"], ["a", "x", "a", "c"]
    of, of_others = matching.hashes(strings), matching.hashes(others)
    assert matching.repeats(strings, of) == [(2, 0), (4, 1), (5, 0)]
    assert matching.matches(strings, of, others, of_others).tolist() == [-1, 0, -1, 3, 0, -1]
    empty = matching.hashes([])
    assert matching.repeats([], empty) == []
    assert matching.matches(strings, of, [], empty).tolist() == [-1] * 6
