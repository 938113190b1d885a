"""tools/preview.py shows the learning rates that a run uses, and the clips that it trains on."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from PIL import Image

from tests.conftest import Outcome, load_command
from timesformer.config import load_config
from timesformer.datasets.catalog import Splits
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.loader import construct_loader, set_epoch
from timesformer.features.extraction import ViewDataset
from timesformer.preview.clips import choose_videos, load_draws, load_mixed
from timesformer.preview.plan import TrainingPlan

AUGMENTED = ["DATA.AUTO_AUGMENT", "rand-m9-n2", "DATA.COLOR_JITTER", "0.4", "DATA.RE_PROB", "0.5"]
Preview = Callable[..., Outcome]


@pytest.fixture
def preview(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Preview:
    """preview(arguments): what `python tools/preview.py arguments` does, without starting a process."""
    tool = load_command("preview")

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr("sys.argv", ["preview.py", *map(str, arguments)])
        capsys.readouterr()
        return Outcome(tool.main(), *capsys.readouterr())

    return run


def configure(tiny_command: list[str], *options: object) -> CfgNode:
    return load_config(tiny_command[1], [*tiny_command[2:], *map(str, options)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    [
        ("SOLVER.WARMUP_EPOCHS", 1.2, "SOLVER.WARMUP_START_LR", 1e-4),
        ("SOLVER.LR_POLICY", "linear", "SOLVER.WARMUP_EPOCHS", 1.2, "SOLVER.WARMUP_START_LR", 1e-4),
        ("SOLVER.LR_POLICY", "onecycle"),
        ("SOLVER.LR_POLICY", "steps_with_relative_lrs", "SOLVER.STEPS", "[0, 1]", "SOLVER.LRS", "[1, 0.1]"),
    ],
)
def test_learning_rates_are_those_of_the_run(
    run_net: Callable[..., Outcome], tiny_command: list[str], tmp_path: Path, schedule: tuple[object, ...]
) -> None:
    options = (*schedule, "SOLVER.LAYER_DECAY", 0.5, "SOLVER.HEAD_LR_SCALE", 3, "SOLVER.ZERO_WD_1D_PARAM", True)
    options = (*options, "GLOBAL_BATCH_SIZE", 4, "TEST.ENABLE", False, "OUTPUT_DIR", tmp_path)
    assert run_net(*tiny_command, *map(str, options)).code == 0
    cfg = configure(tiny_command, *options)
    plan = TrainingPlan(cfg, Splits(cfg))
    assert (plan.batches, plan.steps, plan.iterations) == (6, 3, 12)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [line["lr"] for line in lines if line["kind"] == "train_step"]
    rates, factors = plan.rates(range(12)), np.array([group.factor for group in plan.groups])
    assert [group.label for group in plan.groups] == ["head", "block 1", "embeddings"]
    assert rates[factors == 0.5][0].tolist() == [rate * 0.5 for rate in logged]
    saved = torch.load(tmp_path / "checkpoints/checkpoint_epoch_00002.pyth", weights_only=True)["optimizer_state"]
    assert sorted({group["lr"] for group in saved["param_groups"]}) == sorted(rates[:, -1])
    warmup = 2 if "onecycle" in options else 0  # PyTorch's OneCycleLR: the second of 6 steps has the highest rate
    assert plan.warmup == (8 if "SOLVER.WARMUP_EPOCHS" in options else warmup)


def test_clips_are_those_of_the_training_loader(tiny_command: list[str], tiny_data: Path) -> None:
    cfg = configure(tiny_command, *AUGMENTED, "DATA.REVERSE_INPUT_CHANNEL", True)
    loader = construct_loader(cfg, "train")
    videos = choose_videos(loader, 4)
    labels = loader.dataset.records.labels
    assert len(set(videos)) == 4
    assert {int(labels[video]) for video in videos[:3]} == {0, 1, 2}
    shown = list(load_draws(cfg, loader.dataset, videos, draws=2))
    for epoch in (0, 1):
        set_epoch(loader, epoch)
        trained = {}
        for batch in loader:
            trained |= dict(zip(batch["video"].tolist(), batch["clip"], strict=True))
        for number, video in zip(videos, shown, strict=True):
            draw = video.draws[epoch]
            assert torch.equal(draw.clip.clip, trained[number])
            assert draw.label == f"epoch {epoch + 1}"
            folder = tiny_data / "train" / video.name
            files = [np.asarray(Image.open(folder / f"{frame}.jpg")) for frame in draw.clip.numbers]
            assert np.array_equal(draw.original, np.stack(files))
    assert not torch.equal(shown[0].draws[0].clip.clip, shown[0].draws[1].clip.clip)
    assert [video.num_frames for video in shown] == [3] * 4


def test_clip_that_is_drawn_once_is_that_of_all_epochs(tiny_command: list[str]) -> None:
    cfg = configure(tiny_command, *AUGMENTED, "DATA.DRAW_ONCE", True)
    dataset = ClipDataset(cfg, "train")
    (video,) = load_draws(cfg, dataset, [5], draws=3)
    assert torch.equal(video.draws[0].clip.clip, dataset[1, 5]["clip"])
    assert len(video.draws) == 1


def test_cached_views_are_those_of_the_features(tiny_command: list[str]) -> None:
    cfg = configure(tiny_command, *AUGMENTED)
    cfg.FEATURES.ENABLED, cfg.FEATURES.NUM_VIEWS = True, 2
    dataset = ClipDataset(cfg, "train")
    (video,) = load_draws(cfg, dataset, [5], draws=3)
    views = ViewDataset(cfg, "train", Splits(cfg)["train"], [(5, 0), (5, 1)])
    assert [draw.label for draw in video.draws] == ["view 1", "view 2"]
    assert all(torch.equal(draw.clip.clip, views[n]["clip"]) for n, draw in enumerate(video.draws))


def test_mixed_clips_are_weighted_by_their_labels(tiny_command: list[str]) -> None:
    cfg = configure(tiny_command, "MIXUP.ENABLED", True, "MIXUP.CUTMIX_ALPHA", 0, "TRAIN.BATCH_SIZE", 4)
    loader = construct_loader(cfg, "train")
    assert load_mixed(configure(tiny_command), loader, 2) == []
    mixed = load_mixed(cfg, loader, 4)
    set_epoch(loader, 0)
    batch = next(iter(loader))
    clips, names = batch["clip"].permute(0, 2, 3, 4, 1).double().numpy(), loader.dataset.class_names
    for number, shown in enumerate(mixed):
        own, other = names[batch["label"][number]], names[batch["label"][3 - number]]
        share = dict(shown.label)[own]
        if own == other:
            continue
        expected = share * clips[number] + (1 - share) * clips[3 - number]  # timm mixes with the reversed batch
        assert np.abs(shown.clip.frames - expected).max() < 0.51
        assert share == pytest.approx(1 - dict(shown.label)[other])
    assert any(len(set(batch["label"][[n, 3 - n]].tolist())) == 2 for n in (0, 1))


@pytest.mark.slow
def test_page_and_picture(preview: Preview, tiny_command: list[str], tmp_path: Path) -> None:
    page, picture = tmp_path / "new" / "preview.html", tmp_path / "preview.png"
    options = ["SOLVER.HEAD_LR_SCALE", "5", "MIXUP.ENABLED", "True", "SOLVER.WARMUP_EPOCHS", "0.5"]
    arguments = [*tiny_command, *options, "--videos", "3", "--draws", "2"]
    assert preview(*arguments, "--output", page).code == 0
    text = page.read_text()
    for shown in ("12 training clips of 3 classes", "other parameters", "0.5 epochs", "epoch 2", "catch/train", " % "):
        assert shown in text
    assert text.count('alt="augmented clip') == 6
    assert text.count('alt="mixed clip') == 2  # a batch
    assert text.count("<svg") == 2
    assert preview(*arguments, "--output", picture).code == 0
    assert Image.open(picture).width == 1240


def test_mistakes_are_user_errors(preview: Preview, tiny_command: list[str], tmp_path: Path) -> None:
    path = tmp_path / "preview.html"
    path.write_text("mine")
    for arguments, named in (
        (["--output", path], str(path)),
        (["--output", tmp_path / "preview.pdf"], "preview.pdf"),
        (["--output", tmp_path / "a.html", "--draws", "0"], "--draws"),
        (["--output", tmp_path / "a.html", "SOLVER.WARMUP_EPOCHS", "2"], "SOLVER.WARMUP_EPOCHS"),
    ):
        outcome = preview(*tiny_command, *arguments)
        assert outcome.code == 2
        assert named in outcome.err
    assert path.read_text() == "mine"


def test_unreadable_video_is_named(tiny_command: list[str]) -> None:
    cfg = configure(tiny_command)
    dataset = ClipDataset(cfg, "train")
    dataset.records.problems[2] = "torn"
    (video,) = load_draws(cfg, dataset, [2], draws=1)
    assert video.draws == []
    assert "torn" in video.problem
