"""Numbers recorded from the original, reproduced through the functions that users and runs call."""

import json
from ast import literal_eval
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import timesformer
from tests.engine.training import Clips, loader_of, trainer_of
from timesformer.config import get_cfg, load_config
from timesformer.datasets.records import Records
from timesformer.engine.evaluate import evaluate
from timesformer.metrics.classification import cmc_curve
from timesformer.metrics.view_ensemble import ViewEnsemble
from timesformer.models import build_model

pytestmark = pytest.mark.numerical


def load(golden_dir: Path, name: str) -> Any:
    path = golden_dir / name
    return json.loads(path.read_text()) if path.suffix == ".json" else torch.load(path, weights_only=True)


def yaml_of(target: dict[str, Any], attention_type: str) -> str:
    """A configuration like the original's, for the arguments of its model."""
    sizes = {key.upper(): target[key] for key in ("patch_size", "embed_dim", "depth", "num_heads")}
    crop = {"TRAIN_CROP_SIZE": target["img_size"], "TEST_CROP_SIZE": target["img_size"]}
    options = {
        "MODEL": {"MODEL_NAME": "vit_base_patch16_224", "NUM_CLASSES": target["num_classes"]},
        "DATA": {"NUM_FRAMES": target["num_frames"], "TRAIN_JITTER_SCALES": [target["img_size"]] * 2, **crop},
        "TIMESFORMER": {"ATTENTION_TYPE": attention_type, "POS_EMBED_INTERPOLATION": "legacy", **sizes},
    }
    return yaml.safe_dump(options)


@torch.no_grad()
def assert_recorded(model: nn.Module, clip: Tensor, recorded: Tensor, name: str) -> None:
    """Compares logits with the original's, which are rounded to float32."""
    found = model.double().eval()(clip.double())
    torch.testing.assert_close(found, recorded.double(), rtol=0, atol=1e-5, msg=lambda message: f"{name}: {message}")


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time", "space_only"])
def test_checkpoint_of_the_original_has_its_logits(golden_dir: Path, tmp_path: Path, attention_type: str) -> None:
    golden = load(golden_dir, "vit_small_cases.pt")
    case = golden["cases"][attention_type]
    state = {f"model.{name}": tensor for name, tensor in case["state_dict"].items()}
    checkpoint = tmp_path / "checkpoint_epoch_00001.pyth"
    torch.save({"epoch": 0, "model_state": state, "cfg": yaml_of(golden["config"], attention_type)}, checkpoint)
    classifier = timesformer.load_model(checkpoint, "cpu")
    assert len(case["outputs"]) == 11
    for name, outputs in case["outputs"].items():
        assert_recorded(classifier.model, golden["inputs"][name], outputs["logits"], name)


def test_fine_tuning_starts_with_the_original_logits(golden_dir: Path, tmp_path: Path) -> None:
    golden, file = load(golden_dir, "finetune_loading.pt"), tmp_path / "experiment.yaml"
    cases = {job: c for job, c in golden["load_pretrained"].items() if "in_chans" not in c["target_config"]}
    assert len(cases) == 10
    for job, case in cases.items():
        file.write_text(yaml_of(case["target_config"], case["attention_type"]))
        options = ["TIMESFORMER.PRETRAINED_MODEL", str(golden_dir / case["checkpoint"]), "NUM_GPUS", "0"]
        model = build_model(load_config(file, [*options, "DATA.PATH_TO_DATA_DIR", str(tmp_path)]))
        # Weights that are not in the checkpoint are random.
        fresh = {f"model.{name}": tensor for name, tensor in case["kept_initial"].items()}
        assert model.load_state_dict(fresh, strict=False).unexpected_keys == []
        assert_recorded(model, golden["inputs"][case["input_key"]], case["logits"], job)


def test_topk_matches_the_original(golden_dir: Path) -> None:
    golden = load(golden_dir, "metrics.json")
    labels = golden["labels"]
    curve = cmc_curve(golden["preds"], labels)
    for ks, expected in golden["topks_correct"].items():
        percent = [100 * correct / len(labels) for correct in expected]
        assert [curve[k - 1] for k in literal_eval(ks)] == pytest.approx(percent)
    assert [curve[0], curve[4]] == pytest.approx(golden["topk_accuracies"], abs=1e-4)


class Recorded(Clips):
    """A test split of views whose clips contain their number."""

    split, class_names = "test", ()

    def __init__(self, labels: list[int], num_views: int, order: list[int]) -> None:
        self.records = Records((f"video{n}" for n in range(len(labels))), labels)
        self.num_views, self.order = num_views, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        number = self.order[key[1]]
        video, view = divmod(number, self.num_views)
        clip = torch.full((3, 1, 1, 1), number, dtype=torch.uint8)
        item = {"clip": clip, "label": int(self.records.labels[video]), "video": video, "view": view}
        return item | {"readable": True, "errors": {}}


class Scores(nn.Module):
    """Returns the scores recorded for the number of a clip."""

    def __init__(self, scores: list[list[float]]) -> None:
        super().__init__()
        self.register_buffer("scores", torch.tensor(scores))

    def forward(self, clip: Tensor) -> Tensor:
        return self.scores[(clip[:, 0, 0, 0, 0] * 255).round().long()]


@pytest.mark.parametrize("method", ["sum", "max"])
def test_evaluation_matches_the_original(golden_dir: Path, method: str) -> None:
    case, cfg = load(golden_dir, "metrics.json")["test_meter"], get_cfg()
    cfg.NUM_GPUS, cfg.DATA.MEAN, cfg.DATA.STD, cfg.DATA.ENSEMBLE_METHOD = 0, [0.0] * 3, [1.0] * 3, method
    cfg.MODEL.NUM_CLASSES = case["num_cls"]
    dataset = Recorded(case["video_labels"], case["num_clips"], case["order"])
    found, expected = evaluate(Scores(case["clip_preds"]), loader_of(dataset, 4), cfg, "test"), case["results"][method]
    # The original adds float32 numbers, one for each view.
    rounding = case["num_clips"] * torch.finfo(torch.float32).eps
    torch.testing.assert_close(found.scores, torch.tensor(expected["video_preds"]), rtol=rounding, atol=rounding)
    stats = [float(expected["stats"][key]) for key in ("top1_acc", "top5_acc")]
    assert found.topk(1, 5) == pytest.approx(stats, abs=0.005)  # which were written with two decimals


def test_maximum_of_negative_logits() -> None:
    """The original's maximum starts at zero, so that no negative logit counts; this project's does not."""
    ensemble, scores = ViewEnsemble(1, 2, 3, "max"), torch.tensor([[-1.0, -2.0, 3.0], [-3.0, -1.5, 4.0]])
    ensemble.update(scores, torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert ensemble.complete().tolist() == [[-1.0, -1.5, 4.0]]


@pytest.mark.parametrize(("case", "steps"), [(0, 8), (2, 10), (5, 4)])
def test_learning_rates_of_a_run_match_the_original(golden_dir: Path, case: int, steps: int) -> None:
    recorded, cfg = load(golden_dir, "lr_policy.json")[case], get_cfg()
    cfg.SOLVER.update(recorded["SOLVER"])
    cfg.NUM_GPUS, cfg.LOG_PERIOD, cfg.TRAIN.BATCH_SIZE, cfg.GLOBAL_BATCH_SIZE, cfg.MODEL.NUM_CLASSES = 0, 1, 1, 1, 3
    model = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 3))
    trainer = trainer_of(cfg, model, loader_of(Clips(steps), 1))
    for _ in range(cfg.SOLVER.MAX_EPOCH):
        trainer.train_epoch()
    rates = [metrics["lr"] for metrics in trainer.writer.written["train_step"]]
    found, points = {step / steps: rate for step, rate in enumerate(rates)}, dict(recorded["points"])
    expected = {epoch: points[epoch] for epoch in found if epoch in points}
    assert len(expected) > 20
    assert {epoch: found[epoch] for epoch in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)
