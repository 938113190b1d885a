"""Unreadable clips are logged and listed once, and stop the run if they should."""

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
    cfg.OUTPUT_DIR, cfg.DATA.MAX_UNREADABLE_FRACTION = str(tmp_path), 0.05
    return cfg


def listed(cfg: CfgNode) -> list[dict[str, str]]:
    path = Path(cfg.OUTPUT_DIR) / "unreadable.csv"
    return list(csv.DictReader(path.open(newline=""))) if path.exists() else []


def test_each_clip_is_logged_and_listed_once(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    unreadable = UnreadableClips(cfg, "train", RECORDS)
    unreadable.record({})
    assert listed(cfg) == []
    unreadable.record({3: "/data/a3/clip, 3: torn\nin two"})
    row = {"name": "a3/clip, 3", "path": "/data/a3/clip, 3", "split": "train", "reason": "torn\nin two"}
    assert listed(cfg) == [row]
    unreadable.record({3: "/data/a3/clip, 3: torn\nin two", 7: "/data/a7/clip, 7: empty"})
    resumed = UnreadableClips(cfg, "train", RECORDS)
    resumed.record({7: "/data/a7/clip, 7: empty"})
    assert resumed.reasons == {"a7/clip, 7": "/data/a7/clip, 7: empty"}
    assert [row["name"] for row in listed(cfg)] == ["a3/clip, 3", "a7/clip, 7"]
    assert len(caplog.messages) == 2
    UnreadableClips(cfg, "test", RECORDS).record({7: "/data/a7/clip, 7: empty"})
    assert [row["split"] for row in listed(cfg)] == ["train", "train", "test"]


def test_too_many_unreadable_training_clips_stop_the_run(cfg: CfgNode) -> None:
    unreadable = UnreadableClips(cfg, "train", RECORDS)
    unreadable.record(dict.fromkeys(range(5), "torn"))
    with pytest.raises(UserError, match=r"6 of 100[\s\S]*MAX_UNREADABLE_FRACTION 0\.06[\s\S]*/data/a8/clip, 8: torn"):
        unreadable.record({8: "/data/a8/clip, 8: torn"})
    assert len(listed(cfg)) == 6
    UnreadableClips(cfg, "val", RECORDS).record(dict.fromkeys(range(50), "torn"))  # counted as wrong


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_first_unreadable_clip_stops_the_run_if_configured(cfg: CfgNode, split: str) -> None:
    cfg.DATA.ON_UNREADABLE = "error"
    with pytest.raises(UserError, match=rf"{split} split[\s\S]*a8/clip, 8[\s\S]*DATA\.ON_UNREADABLE"):
        UnreadableClips(cfg, split, RECORDS).record({8: "/data/a8/clip, 8: torn"})
    assert [row["name"] for row in listed(cfg)] == ["a8/clip, 8"]
