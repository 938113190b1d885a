"""tools/analyze.py: what it computes, and the sections that it adds to the report."""

import csv
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.manifold import TSNE

from tests.conftest import Outcome, load_command
from timesformer.analysis.clip_properties import brightness_and_motion, read_properties
from timesformer.analysis.embedding import choose_clips, map_features, read_embedding
from timesformer.analysis.revealed_frames import RevealedClip, read_revealed
from timesformer.inference.classifier import load_model
from timesformer.visualization.report import write_report

SECTIONS = ("embedding", "properties", "revealed", "attention")
Analyze = Callable[..., tuple[int, str]]


@pytest.fixture
def tested(run_net: Callable[..., Outcome], tiny_command: list[str], tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """OUTPUT_DIR of a test of 6 videos, with two views each."""
    checkpoint = tmp_path / "best.pyth"
    shutil.copy(tiny_checkpoint, checkpoint)
    test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(checkpoint), "TEST.REPORT", "True"]
    options = ["TEST.NUM_SPATIAL_CROPS", "1", "OUTPUT_DIR", str(tmp_path / "out")]
    assert run_net(*tiny_command, *test, *options).code == 0
    return tmp_path / "out"


@pytest.fixture
def analyze(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> Analyze:
    """analyze(arguments): exit code, and log with errors."""

    def run(*arguments: object) -> tuple[int, str]:
        caplog.clear()
        caplog.set_level(logging.INFO, "timesformer")
        logging.getLogger("timesformer").propagate = True  # unless a run has set up its own log
        monkeypatch.setattr("sys.argv", ["analyze.py", *map(str, arguments)])
        code = load_command("analyze").main()
        return code, caplog.text + capsys.readouterr().err

    return run


def sections(run: Path) -> list[str]:
    text = (run / "report.html").read_text()
    return [name for name in SECTIONS if f'<section id="{name}">' in text]


@pytest.mark.slow
def test_files_and_sections(analyze: Analyze, tested: Path, tiny_data: Path) -> None:
    assert sections(tested) == []
    assert f"timesformer analyze {tested}" in (tested / "report.html").read_text()
    code, log = analyze(tested)
    assert code == 0, log
    assert sections(tested) == list(SECTIONS)
    assert "timesformer analyze" not in (tested / "report.html").read_text()

    classifier = load_model(tested.parent / "best.pyth", "cpu")
    paths = {f"{path.parent.name}/{path.name}": path for path in sorted(tiny_data.glob("test/*/*"))}
    embedding = read_embedding(tested / "analysis")
    assert embedding.videos == list(paths)
    expected = np.stack([classifier.embed(path) for path in paths.values()])
    assert embedding.features == pytest.approx(expected, abs=1e-5)
    model = TSNE(perplexity=5 / 3, init="pca", random_state=0)
    assert np.array_equal(embedding.points, model.fit_transform(embedding.features).astype(np.float32))

    properties = read_properties(tested / "analysis")
    for name, path in paths.items():
        (clip,) = classifier.clips(path)
        luma = clip.frames @ np.array([0.299, 0.587, 0.114])
        found = properties[name]
        assert (found.frames, np.isnan(found.seconds)) == (3, True)
        assert found.brightness == pytest.approx(luma.mean(), rel=1e-5)
        assert found.motion == pytest.approx(np.abs(luma[1] - luma[0]).mean(), rel=1e-5)

    rows = {row["video"]: row for row in csv.DictReader((tested / "predictions.csv").open())}
    revealed = read_revealed(tested / "analysis")
    assert len(revealed) >= 4
    for clip in revealed:
        row = rows[clip.video]
        of_class = {row[f"class_{rank}"]: float(row[f"probability_{rank}"]) for rank in (1, 2, 3)}
        # All frames are what the test scored; float32 sums of other batches, and six decimals.
        assert clip.true[-1] == pytest.approx(of_class[row["label"]], abs=1e-5)
        assert clip.predicted[-1] == pytest.approx(of_class[row["class_1"]], abs=1e-5)
        still = classifier.clips(paths[clip.video])[0].clip[:, [0, 0]]
        alone = classifier.compute(still.unsqueeze(0))[0].softmax(dim=1)[0]
        assert clip.true[0] == pytest.approx(alone[classifier.class_names.index(row["label"])].item(), abs=1e-5)

    # The report is redrawn from files, and not from those of another test.
    (tested.parent / "best.pyth").unlink()
    write_report([tested], tested / "report.html")
    assert sections(tested) == list(SECTIONS)
    results = json.loads((tested / "results.json").read_text())
    (tested / "results.json").write_text(json.dumps({**results, "finished": "2020-01-01T00:00:00+00:00"}))
    write_report([tested], tested / "report.html")
    assert sections(tested) == []


@pytest.mark.slow
def test_parts_and_errors(analyze: Analyze, tested: Path, tmp_path: Path) -> None:
    assert analyze(tested, "--parts", "embedding", "--clips", 4)[0] == 0
    assert (sections(tested), len(read_embedding(tested / "analysis").videos)) == (["embedding"], 4)
    assert analyze(tested, "--parts", "clips")[0] == 0
    assert sections(tested) == ["embedding", "properties"]
    for arguments, named in (
        ((tested, "--parts", "maps"), "maps"),
        ((tmp_path,), "results.json"),
        ((tested, "--checkpoint", tmp_path / "absent.pyth"), "absent.pyth"),
        ((tested, "DATA.PATH_TO_DATA_DIR", tmp_path / "absent"), "absent"),
    ):
        code, log = analyze(*arguments)
        assert (code, named in log) == (2, True), log
    content = torch.load(tmp_path / "best.pyth", weights_only=True)
    next(iter(content["model_state"].values())).add_(1)
    torch.save(content, tmp_path / "best.pyth")
    code, log = analyze(tested)
    assert (code, "best.pyth" in log) == (2, True)
    (tmp_path / "best.pyth").unlink()
    code, log = analyze(tested)
    assert (code, "--checkpoint" in log) == (2, True)


def test_choice_of_clips() -> None:
    videos = [f"v{number}" for number in range(50)]
    assert choose_clips(videos, 50, 0) == set(videos)
    chosen = choose_clips(videos, 20, 0)
    assert (len(chosen), chosen <= set(videos)) == (20, True)
    assert choose_clips(videos, 20, 0) == chosen != choose_clips(videos, 20, 1)


@pytest.mark.slow
def test_map_keeps_groups_together() -> None:
    groups = np.repeat(np.arange(3), 10)
    features = np.eye(3, 8, dtype=np.float32)[groups] * 10 + np.random.default_rng(0).normal(size=(30, 8))
    points = map_features(features.astype(np.float32))
    distances = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(30)
    assert np.array_equal(groups[distances.argmin(axis=1)], groups)


def test_brightness_and_motion_of_known_clips() -> None:
    clips = torch.zeros(2, 3, 3, 4, 4, dtype=torch.uint8)
    clips[0, 0, 1] = 100  # red in the second of three frames
    brightness, motion = brightness_and_motion(clips)
    assert brightness == pytest.approx([29.9 / 3, 0])
    assert motion == pytest.approx([29.9, 0])
    assert brightness_and_motion(clips, is_bgr=True)[0] == pytest.approx([11.4 / 3, 0])
    assert np.isnan(brightness_and_motion(clips[:, :, :1])[1]).all()


def test_decided() -> None:
    assert RevealedClip("a", [], [], [2, 1, 2, 2]).decided == 3
    assert RevealedClip("a", [], [], [1, 1]).decided == 1
