"""tools/prepare.py shards: training from shards is bit for bit training from files."""

import csv
import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
import webdataset

from tests.conftest import Outcome
from tests.datasets.made_videos import moving_scene
from timesformer.commands.prepare import main
from timesformer.datasets.sources.shard_index import INDEX
from timesformer.preparation import shards

FOLDERS = "TRAIN.DATASET folder TEST.DATASET folder TENSORBOARD.ENABLE False"


def weights(output: Path, epoch: int) -> dict[str, torch.Tensor]:
    path = output / f"checkpoints/checkpoint_epoch_{epoch:05d}.pyth"
    return torch.load(path, weights_only=True)["model_state"]


@pytest.mark.slow
def test_run_continues_from_shards_bit_for_bit(
    tiny_data: Path, tiny_command: list[str], run_net: Callable[..., Outcome], make_video: Callable, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    for count, split in enumerate(("train", "val", "test"), 5):  # videos and folders of frames; the name repeats
        make_video(data / split / "wave/0.avi", moving_scene(count, 32, 24))
    assert main(["shards", "folder", str(data), "--output", str(tmp_path / "shards"), "--max-size", "0.02"]) == 0
    assert len(list((tmp_path / "shards").glob("train-*.tar"))) > 2

    def train(output: str, source: Path) -> Path:
        options = [*FOLDERS.split(), "DATA.PATH_TO_DATA_DIR", str(source), "OUTPUT_DIR", str(tmp_path / output)]
        done = run_net(*tiny_command, *options)
        assert done.code == 0, done.err
        return tmp_path / output

    files = train("files", data)
    resumed = Path(shutil.copytree(files, tmp_path / "resumed"))
    (resumed / "checkpoints/checkpoint_epoch_00002.pyth").unlink()
    shutil.rmtree(data)
    train("resumed", tmp_path / "shards")  # from the end of the first epoch
    assert (resumed / "predictions.csv").read_bytes() == (files / "predictions.csv").read_bytes()
    assert all(torch.equal(value, weights(resumed, 2)[name]) for name, value in weights(files, 2).items())


def test_webdataset_reads_the_shards(tiny_data: Path, make_video: Callable, tmp_path: Path) -> None:
    videos = {f"{label}/{number}.avi": label for label in ("catch", "wave") for number in range(3)}
    for number, name in enumerate(videos):
        make_video(tmp_path / "data/train" / name, moving_scene(3 + number, 32, 24))
    arguments = ["shards", "folder", str(tmp_path / "data")]
    assert main(arguments) == 0
    output = tmp_path / "data_shards"
    samples = list(webdataset.WebDataset(str(output / "train-000000.tar"), shardshuffle=False))
    found = {f"{sample['__key__']}.avi": (sample["avi"], int(sample["cls"])) for sample in samples}
    classes = ["catch", "wave"]
    assert found == {
        name: ((tmp_path / "data/train" / name).read_bytes(), classes.index(label)) for name, label in videos.items()
    }
    rows = list(csv.reader(io.StringIO((output / "train.csv").read_text())))
    assert rows == [["class", "video_name"], *(name.split("/") for name in videos)]

    (output / INDEX).unlink()  # an interrupted run continues, and does not write complete shards again
    before = (output / "train-000000.tar").stat()
    assert main(arguments) == 0
    assert os.path.samestat((output / "train-000000.tar").stat(), before)
    assert (output / INDEX).exists()
    assert main([*arguments, "--max-size", "0.01"]) == 0
    (output / "old.tar").touch()
    assert main(arguments) == 2


def test_a_clip_that_cannot_be_read_is_named(
    make_video: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for number in range(2):
        make_video(tmp_path / f"data/train/wave/{number}.avi", moving_scene(3, 32, 24))
    clip = tmp_path / "data/train/wave/1.avi"

    def open_or_fail(path: object, mode: str) -> BinaryIO:
        if str(path) == str(clip):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return Path(path).open(mode)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "open", open_or_fail, raising=False)
        assert main(["shards", "folder", str(tmp_path / "data")]) == 2
    assert f"{clip} cannot be read: {os.strerror(errno.EIO)}" in capsys.readouterr().err
    assert not list((tmp_path / "data_shards").iterdir())

    plan = shards._plan

    def plan_and_truncate(*arguments: object) -> object:
        made = plan(*arguments)
        clip.write_bytes(clip.read_bytes()[:-1])
        return made

    monkeypatch.setattr(shards, "_plan", plan_and_truncate)
    assert main(["shards", "folder", str(tmp_path / "data")]) == 2
    assert f"{clip} became shorter" in capsys.readouterr().err


def test_clips_that_do_not_exist(tmp_path: Path, make_video: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    make_video(tmp_path / "a.avi", [np.zeros((24, 32, 3), np.uint8)] * 3)
    (tmp_path / "train.csv").write_text("a.avi 0\nb.avi 1\n")
    options = ["DATA.PATH_PREFIX", str(tmp_path), "MODEL.NUM_CLASSES", "2"]
    assert main(["shards", "kinetics", str(tmp_path), "--output", str(tmp_path / "out"), *options]) == 1
    assert str(tmp_path / "b.avi") in capsys.readouterr().out
    assert (tmp_path / "out/train.csv").read_text() == "a.avi 0\n"
