"""Clips that cannot be read are named once, listed as they are found, and stop the run where they should."""

import csv
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from timesformer.config import get_cfg
from timesformer.datasets.records import Records
from timesformer.engine.unreadable import UnreadableClips
from timesformer.errors import UserError

RECORDS = Records((f"a{n}/clip, {n}" for n in range(100)), [0] * 100, folder="/data")


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.DATA.MAX_UNREADABLE_FRACTION = str(tmp_path / "out"), 0.05
    return cfg


def listed(cfg: CfgNode) -> list[dict[str, str]]:
    with (Path(cfg.OUTPUT_DIR) / "unreadable.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_clip_is_named_once_in_log_and_list_also_by_a_run_that_goes_on(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture
) -> None:
    unreadable = UnreadableClips(cfg, "train", RECORDS)
    assert not (Path(cfg.OUTPUT_DIR) / "unreadable.csv").exists()
    unreadable.note({})
    unreadable.note({3: "/data/a3/clip, 3: torn\nin two"})
    row = {"name": "a3/clip, 3", "path": "/data/a3/clip, 3", "split": "train", "reason": "torn\nin two"}
    assert listed(cfg) == [row]  # at once, for a run that is killed
    unreadable.note({3: "/data/a3/clip, 3: torn\nin two", 7: "/data/a7/clip, 7: empty"})
    again = UnreadableClips(cfg, "train", RECORDS)
    again.note({7: "/data/a7/clip, 7: empty"})
    assert again.reasons == {"a7/clip, 7": "/data/a7/clip, 7: empty"}
    assert [row["name"] for row in listed(cfg)] == ["a3/clip, 3", "a7/clip, 7"]
    assert len(caplog.messages) == 2
    assert caplog.messages[1] == "a7/clip, 7 is replaced by another clip of its class: /data/a7/clip, 7: empty"

    UnreadableClips(cfg, "test", RECORDS).note({7: "/data/a7/clip, 7: empty"})
    assert [row["split"] for row in listed(cfg)] == ["train", "train", "test"]
    assert caplog.messages[2] == "a7/clip, 7 counts as a miss: /data/a7/clip, 7: empty"


def test_a_damaged_list_is_added_to(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    unreadable = UnreadableClips(cfg, "train", RECORDS)
    unreadable.note({3: "torn"})
    with (Path(cfg.OUTPUT_DIR) / "unreadable.csv").open("a") as file:
        file.write('x,"' + "y" * 140_000 + '"\n')
    UnreadableClips(cfg, "train", RECORDS).note({3: "torn", 7: "empty"})
    text = (Path(cfg.OUTPUT_DIR) / "unreadable.csv").read_text()
    assert (text.count("a3/clip"), text.count("a7/clip")) == (2, 2)  # name and path of each
    assert "unreadable.csv: field larger than field limit (131072); clips that stand after" in caplog.text


def test_training_stops_above_the_share_allowed_and_says_how_to_go_on(cfg: CfgNode) -> None:
    unreadable = UnreadableClips(cfg, "train", RECORDS)
    unreadable.note(dict.fromkeys(range(5), "torn"))
    expected = r"6 of 100 training clips.*MAX_UNREADABLE_FRACTION 0\.05 allows.*out/unreadable\.csv.*_FRACTION 0\.06 or"
    with pytest.raises(UserError, match=expected) as raised:
        unreadable.note({8: "/data/a8/clip, 8: torn"})
    assert "\n  /data/a8/clip, 8: torn" in str(raised.value)
    assert len(listed(cfg)) == 6
    UnreadableClips(cfg, "val", RECORDS).note(dict.fromkeys(range(50), "torn"))  # misses, however many


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_first_unreadable_clip_stops_the_run_if_asked(
    cfg: CfgNode, split: str, caplog: pytest.LogCaptureFixture
) -> None:
    cfg.DATA.ON_UNREADABLE = "error"
    expected = rf"a clip of the {split} split cannot be read: /data/a8/clip, 8: torn.*set DATA.ON_UNREADABLE continue"
    with pytest.raises(UserError, match=expected.replace(".*", r"[\s\S]*")):
        UnreadableClips(cfg, split, RECORDS).note({8: "/data/a8/clip, 8: torn"})
    assert [row["name"] for row in listed(cfg)] == ["a8/clip, 8"]
    assert not caplog.messages  # none of a replacement that does not come


def test_a_clip_in_whose_place_none_could_be_read_is_an_error_that_names_it(cfg: CfgNode) -> None:
    cfg.DATA.MAX_UNREADABLE_FRACTION = 1.0
    unreadable = UnreadableClips(cfg, "train", RECORDS)
    unreadable.note({8: "/data/8: torn", 9: "/data/9: torn"})
    with pytest.raises(UserError, match=r"a8/clip, 8 cannot be read, and none of its class.*\n  /data/8: torn"):
        unreadable.refuse_unreplaced(8)
