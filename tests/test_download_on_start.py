"""DATA.DOWNLOAD: a run that finds no data fetches, unpacks, trains and tests; the next one asks for nothing."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import TINY_CONFIG, Outcome
from tests.loopback import Server
from tests.rar import rar

CLASSES = ("ApplyEyeMakeup", "Archery")


@pytest.fixture
def ucf101(server: Server, tmp_path: Path) -> list[str]:
    """Addresses of a UCF101 of two classes: three groups of two clips for training, one for test."""
    clips, trained, tested = {}, [], []
    for label, name in enumerate(CLASSES):
        for group in range(1, 5):
            for number in (1, 2):
                clip = f"{name}/v_{name}_g{group:02}_c{number:02}.avi"
                place = tmp_path / "clip.avi"
                with av.open(str(place), "w") as container:
                    stream = container.add_stream("mpeg4", 25)
                    stream.width, stream.height = 32, 24
                    for _ in range(3):
                        frame = np.full((24, 32, 3), 100 * label + 10 * group, np.uint8)
                        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                    container.mux(stream.encode())
                clips[f"UCF-101/{clip}"] = place.read_bytes()
                (tested if group == 1 else trained).append(clip if group == 1 else f"{clip} {label + 1}")
    lists = io.BytesIO()
    with zipfile.ZipFile(lists, "w") as archive:
        for name, lines in {
            "classInd": [f"{number} {name}" for number, name in enumerate(CLASSES, 1)],
            "trainlist01": trained,
            "testlist01": tested,
        }.items():
            archive.writestr(f"ucfTrainTestlist/{name}.txt", "\n".join(lines))
    server.files |= {"/UCF101.rar": rar(clips), "/lists.zip": lists.getvalue()}
    return [server.url("/UCF101.rar"), server.url("/lists.zip")]


def test_a_run_fetches_what_it_lacks(
    server: Server, ucf101: list[str], run_net: Callable[..., Outcome], tmp_path: Path
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY_CONFIG)
    arguments = [
        *("--cfg", str(config), "TRAIN.DATASET", "ucf101", "TEST.DATASET", "ucf101", "MODEL.NUM_CLASSES", "2"),
        *("DATA.PATH_TO_DATA_DIR", str(tmp_path / "ucf101"), "SOLVER.MAX_EPOCH", "1"),
    ]
    missing = run_net(*arguments, "OUTPUT_DIR", str(tmp_path / "none"))
    assert missing.code == 2
    assert "DATA.PATH_TO_DATA_DIR is" in missing.err
    asking = [*arguments, "DATA.DOWNLOAD", "True", "DATA.DOWNLOAD_URLS", str(ucf101)]
    outcome = run_net(*asking, "OUTPUT_DIR", str(tmp_path / "first"))
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "first/results.json").read_text())["num_videos"] == 4
    assert [path for path, _ in server.asked] == ["/lists.zip", "/UCF101.rar"]
    assert run_net(*asking, "OUTPUT_DIR", str(tmp_path / "first"), "TRAIN.ENABLE", "False").code == 0
    assert len(server.asked) == 2


def test_a_run_that_cannot_fetch_says_what_to_do(
    server: Server, ucf101: list[str], run_net: Callable[..., Outcome], tmp_path: Path
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY_CONFIG)
    server.files.clear()
    outcome = run_net(
        *("--cfg", str(config), "TRAIN.DATASET", "ucf101", "TEST.DATASET", "ucf101", "MODEL.NUM_CLASSES", "2"),
        *("DATA.PATH_TO_DATA_DIR", str(tmp_path / "ucf101"), "OUTPUT_DIR", str(tmp_path / "out")),
        *("DATA.DOWNLOAD", "True", "DATA.DOWNLOAD_URLS", str(ucf101)),
    )
    assert outcome.code == 2
    place = tmp_path / "ucf101/archives/lists.zip"
    assert "lists.zip answers 404 Not Found; check the address. The address may have moved" in outcome.err
    assert f"download it by hand, e.g. with a browser, to {place}, and start again" in outcome.err
