"""Using exported files like checkpoints, and files that cannot be used."""

import csv
import importlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np
import onnx
import pytest
import torch

from tests.conftest import load_command
from tests.datasets.made_videos import encode, moving_scene
from timesformer.errors import UserError
from timesformer.export.exporting import ExportOptions, check_output
from timesformer.inference.classifier import load_model
from timesformer.models.weights.exported import FORMATS, import_library
from timesformer.models.weights.loading import CheckpointError, load_pretrained
from timesformer.visualization.attention import find_transformer
from timesformer.web.options import Options
from timesformer.web.service import Service
from timesformer.web.timeline import score_video

pytestmark = pytest.mark.slow


def run(command: str, *arguments: object) -> int:
    return load_command(command).main(list(map(str, arguments)))


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint in every format, checked with the test clips. Not to be changed."""
    folder = tmp_path_factory.mktemp("exported")
    for name, suffix in FORMATS.items():
        options = ["--output", folder / f"m{suffix}", "--clips", tiny_data / "test", "--max-drop", "0", "--rounds", "1"]
        assert run("export", "--checkpoint", tiny_checkpoint, "--to", name, *options) == 0
    return folder


def test_predictions_equal_those_of_the_checkpoint(
    folder: Path, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
):
    rows = {}
    for path in (tiny_checkpoint, *(folder / f"m{suffix}" for suffix in FORMATS.values())):
        output = tmp_path / f"{path.name}.csv"
        options = ["--output", output, "--crops", "3", "--workers", "0", "--quiet"]
        assert run("predict", "--checkpoint", path, tiny_data / "test", *options) == 0
        rows[path.suffix] = list(csv.DictReader(output.read_text().splitlines()))
    for suffix in FORMATS.values():
        for row, expected in zip(rows[suffix], rows[".pyth"], strict=True):
            assert [row[key] for key in ("video", "class_1")] == [expected[key] for key in ("video", "class_1")]
            assert float(row["probability_1"]) == pytest.approx(float(expected["probability_1"]), abs=1e-5)


def test_a_test_of_an_exported_model_gives_the_results_of_its_checkpoint(
    folder: Path, tiny_checkpoint: Path, tiny_command: list[str], run_net: Callable, tmp_path: Path
):
    probabilities = []
    for path in (tiny_checkpoint, folder / "m.onnx"):
        output = tmp_path / path.name
        test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(path), "OUTPUT_DIR", str(output)]
        assert run_net(*tiny_command, *test).code == 0
        rows = list(csv.DictReader((output / "predictions.csv").read_text().splitlines()))
        probabilities.append([float(row["probability_1"]) for row in rows])
    assert len(probabilities[0]) == 6
    assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-5)


def test_long_videos_streams_and_the_web_page_give_the_answers_of_the_checkpoint(
    folder: Path, tiny_checkpoint: Path, tmp_path: Path
):
    clip = encode(tmp_path / "clip.mkv", moving_scene(24), "libx264", rate=10)
    windows = ["--window", "0.4", "--stride", "0.4"]
    found: dict[str, list[float]] = {}
    for path in (tiny_checkpoint, folder / "m.onnx"):
        timeline, answers = tmp_path / f"{path.name}.json", tmp_path / f"{path.name}.jsonl"
        options = ["--timeline", "--threshold", "0", "--output", timeline, "--quiet"]
        assert run("predict", "--checkpoint", path, clip, *windows, *options) == 0
        os.mkfifo(pipe := tmp_path / f"{path.name}.pipe")
        Thread(target=pipe.write_bytes, args=(clip.read_bytes(),), daemon=True).start()
        options = ["--every-window", "--threshold", "0", "--output", answers, "--quiet"]
        assert run("predict", "--checkpoint", path, "--stream", pipe, *windows, *options) == 0
        service = Service.load(Options(checkpoint=str(path), device="cpu"))
        answer = service.answer(clip, "clip.mkv", service.samplers[0], 2)
        score = score_video(service, clip, answer.video, service.samplers[0], service.default_views)
        service.readers.close()
        numbers = [segment["probability"] for segment in json.loads(timeline.read_text())["videos"][0]["segments"]]
        events = [json.loads(line) for line in answers.read_text().splitlines()]
        numbers += [top["probability"] for event in events if event["event"] == "answer" for top in event["top"]]
        numbers += [*answer.prediction.probabilities, *(p for window in score.windows for p in window.probabilities)]
        found[path.suffix] = list(map(float, numbers))
    assert len(found[".pyth"]) > 20
    assert found[".onnx"] == pytest.approx(found[".pyth"], abs=2e-5)


def test_the_check_and_the_metadata_are_written(folder: Path):
    checks = json.loads((folder / "export.json").read_text())
    assert sorted(checks) == ["m.onnx", "m.pt2", "m.xml"]
    for name, check in checks.items():
        assert check["clips"] == 6
        assert check["accuracy"] == check["original_accuracy"]
        assert check["top1_agreement"] == 100
        assert check["largest_difference"] < 1e-4
        metadata = json.loads((folder / f"{name}.json").read_text())
        assert metadata["class_names"] == ["catch", "walk", "wave"]
        assert metadata["input"]["shape"] == [1, 3, 2, 16, 16]
        assert metadata["source"]["checkpoint"] == "best.pyth"
    assert checks["m.onnx"]["bytes"] == (folder / "m.onnx").stat().st_size


def test_a_file_that_loses_too_much_fails(tiny_checkpoint: Path, tmp_path: Path):
    options = ["--to", "torch-export", "--output", tmp_path / "m.pt2", "--rounds", "1"]
    assert run("export", "--checkpoint", tiny_checkpoint, *options, "--max-drop", "-1") == 4
    assert (tmp_path / "m.pt2").is_file()
    assert run("export", "--checkpoint", tiny_checkpoint, *options) == 2  # it exists
    assert run("export", "--checkpoint", tiny_checkpoint, *options, "--overwrite", "--device", "cuda:99") == 2


@pytest.mark.parametrize("name", ["m.xml", "m.bin", "m.xml.json"])
def test_existing_files_are_not_replaced(name: str, tmp_path: Path):
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / name))):
        check_output(tmp_path / "m.xml", "openvino", ExportOptions())
    check_output(tmp_path / "m.xml", "openvino", ExportOptions(), overwrite=True)


@pytest.mark.parametrize("content", ["", "[1]", '{"name": "x"}', '{"m.onnx": {"name": "x"}}'])
def test_an_export_json_of_another_program_is_an_error_before_the_work(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (file := tmp_path / "export.json").write_text(content)
    options = ["--to", "torch-export", "--output", tmp_path / "m.pt2", "--overwrite"]
    assert run("export", "--checkpoint", tmp_path / "missing.pyth", *options) == 2
    assert str(file) in capsys.readouterr().err
    assert file.read_text() == content


@pytest.mark.parametrize(
    "options", [["--max-drop", "nan"], ["--max-drop", "inf"], ["--calibrate", "videos"], ["--int8"]], ids=" ".join
)
def test_options_that_cannot_have_an_effect_are_errors(options: list[str]):
    with pytest.raises(SystemExit) as exit:
        run("export", "--checkpoint", "best.pyth", "--to", "onnx", "--output", "m.onnx", *options)
    assert exit.value.code == 2


@pytest.mark.parametrize("suffix", FORMATS.values())
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.98])
def test_truncated_files_are_errors(folder: Path, tmp_path: Path, suffix: str, fraction: float):
    content = (folder / f"m{suffix}").read_bytes()
    if suffix == ".xml":
        (tmp_path / "m.bin").write_bytes((folder / "m.bin").read_bytes())
    (path := tmp_path / f"m{suffix}").write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_model(path)


def test_damaged_and_missing_files_are_errors(folder: Path, tmp_path: Path):
    content = bytearray((folder / "m.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (path := tmp_path / "m.onnx").write_bytes(content)
    (tmp_path / "m.onnx.json").write_text((folder / "m.onnx.json").read_text())
    with pytest.raises(CheckpointError, match=r"m\.onnx"):
        load_model(path)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(CheckpointError, match=r"folder\.onnx is a folder"):
        load_model(tmp_path / "folder.onnx")
    (tmp_path / "m.xml").write_bytes((folder / "m.xml").read_bytes())
    with pytest.raises(CheckpointError, match=r"m\.bin"):
        load_model(tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes((folder / "m.bin").read_bytes()[:-64])
    with pytest.raises(CheckpointError, match=r"m\.bin"):
        load_model(tmp_path / "m.xml")


@pytest.mark.parametrize("name", ["m.onnx", "m.xml", "m.bin", "m.pt2"])
def test_changed_weights_are_found_without_the_sidecar(folder: Path, tmp_path: Path, name: str):
    for path in folder.glob("m.*"):
        if path.suffix != ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / ("m.xml" if name == "m.bin" else name)
    load_model(path)
    content = bytearray((tmp_path / name).read_bytes())
    if name == "m.xml":
        content = content.replace(b' eps="9', b' eps="1', 1)
    else:
        content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_model(path)


@pytest.mark.parametrize("content", ["", "no JSON", "[]"])
def test_a_damaged_sidecar_is_an_error(folder: Path, tmp_path: Path, content: str):
    (path := tmp_path / "m.onnx").write_bytes((folder / "m.onnx").read_bytes())
    (tmp_path / "m.onnx.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"m\.onnx\.json"):
        load_model(path)


XML_FILES = {
    "bytes": np.random.default_rng(0).bytes(1000),
    "empty": b"",
    "annotation": b'<?xml version="1.0"?><annotation><object name="walk"/></annotation>',
    "page": b"<!DOCTYPE html><html><body>404</body></html>",
    "earlier version": b'<net name="m" version="7"><layers/></net>',
    "without metadata": b'<net name="m" version="11"><layers/><edges/></net>',
}


@pytest.mark.parametrize("kind", XML_FILES)
def test_other_xml_files_are_one_error(kind: str, tiny_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (path := tmp_path / "m.xml").write_bytes(XML_FILES[kind])
    (tmp_path / "m.bin").write_bytes(b"")
    assert run("predict", "--checkpoint", path, tiny_data / "test", "--workers", "0") == 2
    (line,) = capfd.readouterr().err.splitlines()  # also what C++ prints
    assert line.startswith(f"error: {path} ")


def test_openvino_sends_no_telemetry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "openvino_telemetry")
    import_library("openvino", "a test", "openvino")
    with pytest.raises(ImportError):
        importlib.import_module("openvino_telemetry")


def test_models_of_other_programs_are_errors(tmp_path: Path):
    make = onnx.helper
    values = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in ("input", "output")]
    graph = make.make_graph([make.make_node("Identity", ["input"], ["output"])], "graph", values[:1], values[1:])
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8), tmp_path / "other.onnx")
    with pytest.raises(CheckpointError, match=r"other\.onnx"):
        load_model(tmp_path / "other.onnx")


def test_exported_models_have_one_shape_and_give_logits_only(folder: Path, tiny_data: Path, tiny_checkpoint: Path):
    path = folder / "m.onnx"
    with pytest.raises(CheckpointError, match=r"DATA\.NUM_FRAMES"):
        load_model(path, cfg_opts=["DATA.NUM_FRAMES", "4"])
    with pytest.raises(CheckpointError, match=r"m\.onnx"):
        load_pretrained(load_model(tiny_checkpoint, "cpu").model, path)
    classifier = load_model(path)
    with pytest.raises(UserError, match=r"m\.onnx"):
        classifier.embed(next(tiny_data.glob("test/*/*")))
    with pytest.raises(ValueError, match="uint8"):
        classifier.model(torch.zeros(1, 3, 2, 16, 16))
    with pytest.raises(UserError, match=re.escape(str(path))):
        find_transformer(classifier.model)
    assert classifier.fingerprint() != load_model(folder / "m.pt2").fingerprint()
