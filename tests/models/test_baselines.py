"""Models of torchvision and timm behind the interface of this project's own."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import timm
import torch
from fvcore.common.config import CfgNode
from torch import nn
from torchvision import models

from tests.models.small import save
from timesformer.config import get_cfg
from timesformer.errors import UserError
from timesformer.models import build_model
from timesformer.models.baselines import TorchvisionModel
from timesformer.models.weights.loading import load_pretrained

pytestmark = pytest.mark.numerical

VIDEO_MODELS = {  # name: frames and size of a clip that it takes; its head
    "r3d_18": ((2, 32), "fc"),
    "mc3_18": ((2, 32), "fc"),
    "r2plus1d_18": ((2, 32), "fc"),
    "s3d": ((14, 224), "classifier.1"),
    "mvit_v1_b": ((16, 224), "head.1"),
    "mvit_v2_s": ((16, 224), "head.1"),
    "swin3d_t": ((2, 32), "head"),
    "swin3d_s": ((2, 32), "head"),
    "swin3d_b": ((2, 32), "head"),
}


def config(name: str, frames: int = 2, crop: int = 32, **model: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.MODEL_NAME, cfg.MODEL.NUM_CLASSES = name, 5
    cfg.MODEL.update(CfgNode(model))
    cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE = frames, crop, crop
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize("name", VIDEO_MODELS)
def test_torchvision_models(name: str) -> None:
    assert set(models.list_models(module=models.video)) == set(VIDEO_MODELS)
    (frames, crop), head = VIDEO_MODELS[name]
    with torch.device("meta"):
        model = build_model(config(f"torchvision/{name}", frames, crop))
        assert model.eval()(torch.zeros(2, 3, frames, crop, crop)).shape == (2, 5)
    assert model.head_names == (head,)
    assert model.model.get_submodule(head).weight.shape[0] == 5


@pytest.mark.parametrize(
    ("name", "frames", "crop", "test_crop", "key"),
    [
        ("torchvision/mvit_v2_s", 8, 48, 48, "DATA.TRAIN_CROP_SIZE"),
        ("torchvision/s3d", 14, 224, 48, "DATA.TEST_CROP_SIZE"),
        ("timm/vit_tiny_patch16_224", 2, 48, 64, "DATA.TEST_CROP_SIZE"),
    ],
)
def test_clips_that_do_not_fit_are_refused(name: str, frames: int, crop: int, test_crop: int, key: str) -> None:
    cfg = config(name, frames, crop)
    cfg.DATA.TEST_CROP_SIZE = test_crop
    with torch.device("meta"), pytest.raises(UserError, match=key):
        build_model(cfg)


@pytest.mark.parametrize(("name", "near"), [("torchvision/r3d18", "r3d_18"), ("timm/resnt18", "resnet18")])
def test_unknown_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UserError, match=near):
        build_model(config(name))


@pytest.mark.parametrize("name", ["swin3d_t", "mvit_v2_s"])
def test_torchvision_dropout(name: str) -> None:
    head = VIDEO_MODELS[name][1]
    with torch.device("meta"):
        plain, model = TorchvisionModel(name, 5), TorchvisionModel(name, 5, dropout=0.25)
    assert list(model.state_dict()) == list(plain.state_dict())
    seen = []
    model.model.get_submodule(head).register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    parent = model.model.get_submodule(head.split(".")[0])
    features = torch.ones(100, 768)
    parent.to_empty(device="cpu").train()(features.clone())  # torchvision's dropout is in place
    parent.eval()(features)
    assert sorted(seen[0].unique().tolist()) == pytest.approx([0, 4 / 3])
    assert seen[1].eq(1).all()


def test_timm_logits_are_the_mean_over_the_frames() -> None:
    model = build_model(config("timm/test_resnet.r160_in1k", frames=3)).double().eval()
    clip = torch.randn(2, 3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        logits = model(clip)
        by_frame = torch.stack([model.model(clip[:, :, frame]) for frame in range(3)])
    torch.testing.assert_close(logits, by_frame.mean(dim=0), rtol=1e-9, atol=1e-12)


class TestWeights:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["timm/test_vit", "torchvision/mc3_18"])
    def test_checkpoint_of_the_same_model(self, name: str, tmp_path: Path) -> None:
        trained = build_model(config(name))
        for parameter in trained.parameters():
            nn.init.normal_(parameter, std=0.1)
        path = save({"model_state": trained.state_dict()}, tmp_path)
        same = build_model(config(name))
        report = load_pretrained(same, path)
        assert (report.new, report.unused, report.adapted) == ([], [], [])
        clip = torch.randn(1, 3, 2, 32, 32)
        with torch.no_grad():
            assert torch.equal(same.eval()(clip), trained.eval()(clip))
        other = build_model(config(name, NUM_CLASSES=7))
        report = load_pretrained(other, path)
        assert {n.rsplit(".", 1)[0] for n in report.new} == set(other.head_names)

    def test_file_of_the_library(self, tmp_path: Path) -> None:
        path = save(timm.create_model("test_resnet", num_classes=1000).state_dict(), tmp_path)
        report = load_pretrained(build_model(config("timm/test_resnet")), path)
        assert report.new == report.unused == ["fc.weight", "fc.bias"]

    def test_kinetics_weights_of_torchvision(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kinetics = models.get_model("mc3_18", weights=None).state_dict()
        monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda *args, **options: kinetics, raising=False)
        state = TorchvisionModel("mc3_18", 5, pretrained=True).model.state_dict()
        assert state["fc.weight"].shape == (5, 512)
        assert all(torch.equal(state[n], kinetics[n]) for n in kinetics if not n.startswith("fc."))
        assert torch.equal(TorchvisionModel("mc3_18", 400, pretrained=True).model.fc.weight, kinetics["fc.weight"])

    @pytest.mark.parametrize("name", ["torchvision/r3d_18", "timm/test_resnet"])
    def test_no_network(self, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("socket.socket.connect", Mock(side_effect=OSError))
        monkeypatch.setattr("socket.getaddrinfo", Mock(side_effect=OSError))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        with pytest.raises(UserError, match=r"MODEL\.PRETRAINED"):
            build_model(config(name, PRETRAINED=True))

    def test_expected_normalization(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        create = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **options: create(name, **options))
        cfg = config("timm/test_resnet", PRETRAINED=True)
        build_model(cfg, fresh=True)
        assert caplog.messages == []
        build_model(cfg)
        assert "DATA.MEAN [0.5, 0.5, 0.5] and DATA.STD [0.5, 0.5, 0.5]" in caplog.text
        caplog.clear()
        cfg.DATA.MEAN = cfg.DATA.STD = [0.5, 0.5, 0.5]
        build_model(cfg)
        assert caplog.messages == []
