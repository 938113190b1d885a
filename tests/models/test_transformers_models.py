"""Video classifiers of transformers behind the interface of this project's models; no file is downloaded."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import transformers
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.config import get_cfg
from timesformer.datasets.transforms.spatial import tensor_normalize
from timesformer.errors import UserError
from timesformer.inference.classifier import load_model
from timesformer.models import build_model
from timesformer.models.complexity import count_multiply_adds, count_parameters
from timesformer.models.heads import HeadOptions
from timesformer.models.parts import freeze, layer_numbers
from timesformer.models.transformers_models import TransformersModel
from timesformer.models.weights.convert import convert
from timesformer.models.weights.loading import load_pretrained

pytestmark = pytest.mark.numerical

_SIZE = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32}
_LAYERS = {"num_hidden_layers": 3}
_CLIP = {"image_size": 16, "num_frames": 2}
_PREDICTOR = {"pred_hidden_size": 24, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
_VJEPA2 = {"hidden_size": 24, "num_attention_heads": 2, "mlp_ratio": 2, "crop_size": 16, "patch_size": 8}
CONFIGS: dict[str, Callable[[], Any]] = {  # networks for clips of 2 frames of 16x16 pixels
    "VideoMAE": lambda: transformers.VideoMAEConfig(patch_size=8, tubelet_size=2, **_CLIP, **_SIZE, **_LAYERS),
    "VideoMAE cls": lambda: transformers.VideoMAEConfig(
        patch_size=8, tubelet_size=1, use_mean_pooling=False, **_CLIP, **_SIZE, **_LAYERS
    ),
    "ViViT": lambda: transformers.VivitConfig(tubelet_size=[2, 8, 8], **_CLIP, **_SIZE, **_LAYERS),
    "TimeSformer": lambda: transformers.TimesformerConfig(patch_size=8, **_CLIP, **_SIZE, **_LAYERS),
    "TimeSformer space-only": lambda: transformers.TimesformerConfig(
        patch_size=8, attention_type="space_only", **_CLIP, **_SIZE, **_LAYERS
    ),
    "V-JEPA 2": lambda: transformers.VJEPA2Config(
        frames_per_clip=2, tubelet_size=2, num_pooler_layers=1, **_VJEPA2, **_PREDICTOR, **_LAYERS
    ),
    "VideoPrism": lambda: transformers.VideoPrismVisionConfig(
        tubelet_size=[1, 8, 8], num_spatial_layers=2, num_temporal_layers=1, **_CLIP, **_SIZE
    ),
}
PROCESSORS = {
    "VideoMAE": lambda: transformers.VideoMAEImageProcessor(image_mean=[0.485, 0.456, 0.406]),
    "ViViT": lambda: transformers.VivitImageProcessor(image_mean=[0.0] * 3, image_std=[1.0] * 3),  # pixels in [-1, 1]
    "V-JEPA 2": lambda: transformers.VJEPA2VideoProcessor(crop_size=16),
}


def save(name: str, folder: Path, num_classes: int = 3, processor: bool = False) -> nn.Module:
    """Saves a network with random weights as transformers does, and returns it in evaluation mode."""
    config = CONFIGS[name]()
    config.num_labels = num_classes
    network = transformers.AutoModelForVideoClassification.from_config(config).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    network.save_pretrained(folder)
    if processor:
        PROCESSORS[name]().save_pretrained(folder)
    return network


def config(name: str | Path, *options: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.MODEL_NAME, cfg.MODEL.NUM_CLASSES, cfg.MODEL.PRETRAINED = f"transformers/{name}", 3, True
    cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE = 2, 16, 16
    cfg.merge_from_list(list(options))
    return cfg


def logits_of(network: nn.Module, clips: Tensor) -> Tensor:
    """What transformers computes for clips [batch, 3, frames, height, width]."""
    with torch.no_grad():
        logits = network(**{network.main_input_name: clips.transpose(1, 2)}).logits
    return logits.reshape(len(clips), -1, 3).mean(dim=1)


def native(folder: Path) -> nn.Module:
    """This project's model with the weights of a folder."""
    return load_model(folder, "cpu").model


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    network, clips = save(name, tmp_path), torch.randn(2, 3, 2, 16, 16)
    model = build_model(config(tmp_path)).eval()
    assert torch.equal(model(clips), logits_of(network, clips))
    with torch.no_grad():
        torch.testing.assert_close(model.forward_head(model.head_input(clips)), model(clips), rtol=1e-5, atol=1e-6)
    model.train()(clips).sum().backward()
    assert [n for n, parameter in model.named_parameters() if parameter.grad is None] == []  # data-parallel training
    with torch.device("meta"):
        assert build_model(config(tmp_path)).eval()(torch.zeros(2, 3, 2, 16, 16)).shape == (2, 3)


def test_head_is_fresh_for_other_classes(tmp_path: Path) -> None:
    network = save("V-JEPA 2", tmp_path).state_dict()
    assert torch.equal(build_model(config(tmp_path)).model.classifier.weight, network["classifier.weight"])
    model = build_model(config(tmp_path, "MODEL.NUM_CLASSES", 5))
    state = model.model.state_dict()
    assert model.head_names == ("classifier",)
    assert state["classifier.weight"].shape == (5, 24)
    assert all(torch.equal(state[n], network[n]) for n in state if not n.startswith("classifier."))
    untrained = build_model(config(tmp_path, "MODEL.PRETRAINED", False)).model.state_dict()
    assert not any(torch.equal(untrained[n], network[n]) for n in state if n.endswith("proj.weight"))


def test_half_precision_files_are_trained_in_float32(tmp_path: Path) -> None:
    save("VideoMAE", tmp_path).half().save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in build_model(config(tmp_path)).parameters()} == {torch.float32}


def test_dropout_of_the_features(tmp_path: Path) -> None:
    save("VideoMAE", tmp_path)
    model = build_model(config(tmp_path, "MODEL.DROPOUT_RATE", 0.25))
    plain = build_model(config(tmp_path))
    assert list(model.state_dict()) == list(plain.state_dict())
    seen: list[Tensor] = []
    model.model.classifier.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    plain.model.classifier.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    clips = torch.randn(1, 3, 2, 16, 16)
    for network, training in ((plain, True), (model, True), (model, False)):
        network.train(training)(clips)
    kept = seen[1] != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(seen[1][kept], seen[0][kept] / 0.75)
    assert torch.equal(seen[2], seen[0])


@pytest.mark.parametrize(("name", "blocks"), [("VideoMAE", 3), ("ViViT", 3), ("V-JEPA 2", 3), ("VideoPrism", 3)])
def test_layer_numbers(name: str, blocks: int, tmp_path: Path) -> None:
    save(name, tmp_path)
    model = build_model(config(tmp_path))
    numbers = layer_numbers(model)
    assert set(numbers.values()) == set(range(blocks + 2))
    assert {n for n, number in numbers.items() if number == blocks + 1} == {
        "model.classifier.weight",
        "model.classifier.bias",
    }
    embeddings = {n for n in numbers if "embeddings" in n and "temporal" not in n}
    assert embeddings
    assert {numbers[n] for n in embeddings} == {0}
    freeze(model, "all_but_last_1")
    assert {numbers[n] for n, parameter in model.named_parameters() if parameter.requires_grad} == {blocks, blocks + 1}


@pytest.mark.slow
def test_multiply_adds_and_parameters_of_videomae_base() -> None:
    published = transformers.VideoMAEConfig().to_dict()
    with torch.device("meta"):
        model = TransformersModel("base", 400, network_config=published)
        assert count_multiply_adds(model, (1, 3, 16, 224, 224)) / 1e9 == pytest.approx(180, abs=0.5)
    assert count_parameters(model) / 1e6 == pytest.approx(87, abs=0.5)


def test_fused_attention_is_counted(tmp_path: Path) -> None:
    save("VideoMAE", tmp_path)
    model = build_model(config(tmp_path))
    on_cpu = count_multiply_adds(model, (1, 3, 2, 16, 16))
    assert count_multiply_adds(model.to("meta"), (1, 3, 2, 16, 16)) == on_cpu


@pytest.mark.parametrize("name", ["VideoMAE", "VideoMAE cls", "ViViT", "TimeSformer", "TimeSformer space-only"])
def test_tokens_are_those_of_the_native_model(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    clips = torch.randn(2, 3, 2, 16, 16, dtype=torch.float64)
    model = build_model(config(tmp_path, "MODEL.HEAD", "temporal", "MODEL.HEAD_GRID", 2)).double().eval()
    with torch.no_grad():
        cls, patches = model.model.forward_tokens(clips)
        expected_cls, expected = native(tmp_path).double().model.forward_tokens(clips)
        assert torch.equal(model(clips), model.model.forward_head(model.model.head_input(clips)))
    torch.testing.assert_close(patches, expected, rtol=1e-6, atol=1e-6)  # positions of VideoMAE are float32
    assert (cls is None) == (expected_cls is None)
    if cls is not None:
        torch.testing.assert_close(cls, expected_cls, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layers"),
    [("V-JEPA 2", ("num_hidden_layers",)), ("VideoPrism", ("num_spatial_layers", "num_temporal_layers"))],
)
def test_tokens_without_layers_depend_on_their_patch(name: str, layers: tuple[str, ...], tmp_path: Path) -> None:
    settings = CONFIGS[name]()
    settings.update(dict.fromkeys(layers, 0) | {"num_frames": 4})
    settings.save_pretrained(tmp_path)
    options = ("MODEL.PRETRAINED", False, "MODEL.HEAD", "attentive", "DATA.NUM_FRAMES", 4)
    network = build_model(config(tmp_path, *options)).eval().model
    clips = torch.randn(1, 3, 4, 16, 16)
    changed = clips.clone()
    changed[:, :, 2, :8, 8:] += 1
    with torch.no_grad():
        (_, before), (_, after) = map(network.forward_tokens, (clips, changed))
    step = 2 * before.shape[1] // 4
    assert (before != after).any(dim=-1).nonzero().tolist() == [[0, step, 0, 1]]


@pytest.mark.parametrize("head", ["attentive", "temporal"])
@pytest.mark.parametrize("name", CONFIGS)
def test_head_over_tokens(name: str, head: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    model = build_model(config(tmp_path, "MODEL.HEAD", head))
    clips = torch.randn(2, 3, 2, 16, 16)
    model.train()(clips).sum().backward()
    unused = {n for n, parameter in model.named_parameters() if parameter.grad is None}
    assert unused == set()
    numbers = layer_numbers(model)
    assert set(numbers.values()) == set(range(5))
    freeze(model, "backbone")
    trained = {n for n, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {n for n in numbers if n.startswith("model.head.")}
    again = TransformersModel("gone", 3, 0.0, False, 16, model.network_config, HeadOptions(head), num_frames=2)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(clips), model.eval()(clips))


@pytest.mark.parametrize("name", ["V-JEPA 2", "TimeSformer"])
def test_head_over_tokens_starts_from_a_checkpoint_with_a_linear_head(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    linear, other = build_model(config(tmp_path)), config(tmp_path, "MODEL.HEAD", "temporal", "MODEL.PRETRAINED", False)
    file = tmp_path / "linear.pyth"
    torch.save({"model_state": linear.state_dict(), "network_config": linear.network_config}, file)
    model = build_model(other)
    report = load_pretrained(model, file)
    assert {n.partition(".")[0] for n in report.new} == {"head"}
    assert {n.partition(".")[0] for n in report.unused} <= {"classifier", "pooler"}
    expected = {f"backbone.{n}": tensor for n, tensor in linear.model.state_dict().items() if "encoder." in n}
    state = model.model.state_dict()
    assert all(torch.equal(state[n], tensor) for n, tensor in expected.items())


@pytest.mark.parametrize("name", PROCESSORS)
def test_normalization_is_that_of_the_processor(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(name, tmp_path, processor=True)
    mean, std = build_model(config(tmp_path)).normalization
    assert "DATA.MEAN" in caplog.text
    caplog.clear()
    build_model(config(tmp_path, "MODEL.PRETRAINED", False))
    cfg = config(tmp_path, "DATA.MEAN", list(mean), "DATA.STD", list(std))
    build_model(cfg)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
    frames = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    video = frames if name == "V-JEPA 2" else [frame.permute(1, 2, 0).numpy() for frame in frames]
    processed = PROCESSORS[name]()(video, do_resize=False, do_center_crop=False, return_tensors="pt")
    (expected,) = processed.values()
    ours = tensor_normalize(frames.transpose(0, 1)[None], cfg.DATA.MEAN, cfg.DATA.STD)
    torch.testing.assert_close(ours.transpose(1, 2), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("VideoMAE", ("DATA.NUM_FRAMES", 4), "DATA.NUM_FRAMES"),
        ("ViViT", ("DATA.NUM_FRAMES", 3), "DATA.NUM_FRAMES"),  # a convolution would ignore the last one
        ("TimeSformer", ("DATA.NUM_FRAMES", 4), "DATA.NUM_FRAMES"),  # transformers would mix frames and patches
        ("V-JEPA 2", ("DATA.NUM_FRAMES", 3), "DATA.NUM_FRAMES"),
        ("VideoMAE", ("DATA.TRAIN_CROP_SIZE", 32), "DATA.TRAIN_CROP_SIZE"),
        ("ViViT", ("DATA.TEST_CROP_SIZE", 32), "DATA.TEST_CROP_SIZE"),
        ("V-JEPA 2", ("DATA.TEST_CROP_SIZE", 32), "DATA.TEST_CROP_SIZE"),  # rotary positions would be wrong
    ],
)
def test_clips_that_do_not_fit_are_refused(name: str, options: tuple[str, int], key: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    with pytest.raises(UserError, match=key):
        build_model(config(tmp_path, *options))


def test_vjepa2_takes_other_sizes(tmp_path: Path) -> None:
    network, clips = save("V-JEPA 2", tmp_path), torch.randn(1, 3, 4, 24, 24)
    cfg = config(tmp_path, "DATA.NUM_FRAMES", 4, "DATA.TRAIN_CROP_SIZE", 24, "DATA.TEST_CROP_SIZE", 24)
    changed = transformers.VJEPA2ForVideoClassification.from_pretrained(tmp_path, crop_size=24)
    assert torch.equal(build_model(cfg).eval()(clips), logits_of(changed, clips))
    assert not torch.equal(logits_of(network, clips), logits_of(changed, clips))


@pytest.mark.parametrize("name", ["no/folder/here", "/no/folder", "~/no_such_folder", "no_owner"])
def test_unknown_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", Mock(side_effect=OSError("no network")))
    for pretrained in (False, True):
        with pytest.raises(UserError, match=name):
            build_model(config(name, "MODEL.PRETRAINED", pretrained))


@pytest.mark.parametrize("pretrained", [False, True])
def test_names_on_the_hub_are_downloaded(pretrained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, clips = save("VideoMAE", tmp_path), torch.randn(1, 3, 2, 16, 16)
    download = Mock(return_value=str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    model = build_model(config("owner/videomae@v1", "MODEL.PRETRAINED", pretrained)).eval()
    assert torch.equal(model(clips), logits_of(network, clips)) == pretrained
    assert download.call_args.args == ("owner/videomae",)
    assert download.call_args.kwargs["revision"] == "v1"
    assert ("model.safetensors" in download.call_args.kwargs["allow_patterns"]) == pretrained


def test_other_kinds_of_models_are_refused(tmp_path: Path) -> None:
    transformers.ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="model_type vit"):
        build_model(config(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json"):
        build_model(config(tmp_path))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save("VideoMAE", tmp_path)
    settings = tmp_path / "config.json"
    settings.write_text(settings.read_text().replace('"intermediate_size": 32', '"intermediate_size": 40'))
    with pytest.raises(UserError, match="intermediate"):
        build_model(config(tmp_path))


def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save("VideoMAE", tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="pip install transformers"):
        build_model(config(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["V-JEPA 2", "TimeSformer", "VideoMAE"])
def test_run_without_the_folder(
    name: str, tiny_command: list[str], run_net: Callable, tiny_data: Path, tmp_path: Path
) -> None:
    folder, output = tmp_path / "network", tmp_path / "run"
    network = save(name, folder, num_classes=7)
    options = ["OUTPUT_DIR", str(output), "MODEL.MODEL_NAME", f"transformers/{folder}", "EMA.ENABLED", "True"]
    command = [*tiny_command, *options, "SOLVER.LAYER_DECAY", "0.8", "LOG_MODEL_INFO", "True"]
    outcome = run_net(*command, "MODEL.PRETRAINED", "True", "MODEL.FREEZE", "all_but_last_1")
    assert outcome.code == 0, outcome
    shutil.rmtree(folder)

    checkpoint = output / "checkpoints/best.pyth"
    trained = torch.load(checkpoint, weights_only=True)["model_state"]
    state = {n.removeprefix("model."): tensor for n, tensor in trained.items()}
    unchanged = [n for n in state if "layer.0." in n]
    assert unchanged
    assert all(torch.equal(state[n], network.state_dict()[n]) for n in unchanged)

    tested = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(checkpoint)]
    assert run_net(*command, *tested).code == 0
    classifier = load_model(output)
    videos = sorted(path for path in (tiny_data / "test").glob("*/*"))
    assert sum(1 for _ in classifier.predict_many(videos, workers=0)) == len(videos)

    of_transformers = CONFIGS[name]()
    of_transformers.num_labels = 3
    network = transformers.AutoModelForVideoClassification.from_config(of_transformers).eval()
    network.load_state_dict(state, strict=False)  # V-JEPA 2's predictor, which classification does not use
    clips = torch.randn(2, 3, 2, 16, 16)
    assert torch.equal(classifier.model(clips), logits_of(network, clips))

    resumed = run_net(*command, "MODEL.PRETRAINED", "True", "MODEL.FREEZE", "all_but_last_1", "SOLVER.MAX_EPOCH", "3")
    assert resumed.code == 0, resumed
    assert (output / "checkpoints/checkpoint_epoch_00003.pyth").is_file()


@pytest.mark.parametrize("name", CONFIGS)
def test_export(name: str, tmp_path: Path) -> None:
    save(name, tmp_path / "network")
    cfg = config(tmp_path / "network")
    model = build_model(cfg).eval()
    file = tmp_path / "trained.pyth"
    content = {"model_state": model.state_dict(), "network_config": model.network_config, "cfg": cfg.dump()}
    torch.save(content | {"class_names": ["catch", "walk", "wave"]}, file)
    convert(str(file), tmp_path / "again.pyth", "pyth")
    convert(str(tmp_path / "again.pyth"), tmp_path / "hf", "hf")
    network = transformers.AutoModelForVideoClassification.from_pretrained(tmp_path / "hf").eval()
    clips = torch.randn(2, 3, 2, 16, 16)
    assert torch.equal(logits_of(network, clips), model(clips))
    assert network.config.id2label == {0: "catch", 1: "walk", 2: "wave"}
    cfg.MODEL.MODEL_NAME = f"transformers/{tmp_path / 'hf'}"
    assert torch.equal(build_model(cfg).eval()(clips), model(clips))
    assert np.allclose(build_model(cfg).normalization, (cfg.DATA.MEAN, cfg.DATA.STD))


@pytest.mark.slow
def test_cached_features_of_a_frozen_network(tiny_command: list[str], run_net: Callable, tmp_path: Path) -> None:
    folder, output = tmp_path / "network", tmp_path / "run"
    network = save("V-JEPA 2", folder, num_classes=7)
    options = ["OUTPUT_DIR", str(output), "MODEL.MODEL_NAME", f"transformers/{folder}", "MODEL.HEAD", "attentive"]
    options += ["MODEL.PRETRAINED", "True", "MODEL.FREEZE", "backbone", "FEATURES.ENABLED", "True"]
    options += ["SOLVER.OPTIMIZING_METHOD", "adamw", "FEATURES.CACHE_DIR", str(tmp_path / "features")]
    outcome = run_net(*tiny_command, *options)
    assert outcome.code == 0, outcome
    assert "MODEL.FREEZE" not in outcome.err  # the head replaces the pooler
    shutil.rmtree(folder)
    model = load_model(output, "cpu").model
    state = {f"backbone.{n}": v for n, v in network.state_dict().items() if "encoder." in n}
    assert all(torch.equal(model.model.state_dict()[n], tensor) for n, tensor in state.items())


@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_frozen_layers_without_weights_are_known(head: str, tmp_path: Path) -> None:
    """The pooler of V-JEPA 2's classifier is not in its pretrained model; heads over tokens do without."""
    settings = CONFIGS["V-JEPA 2"]()
    transformers.VJEPA2Model(settings).save_pretrained(tmp_path)
    model = build_model(config(tmp_path, "MODEL.FREEZE", "backbone", "MODEL.HEAD", head))
    freeze(model, "backbone")
    frozen = {name.removeprefix("model.") for name, p in model.named_parameters() if not p.requires_grad}
    untrained = frozen.intersection(model.new_parameters)
    assert bool(untrained) == (head == "linear")
    assert all("pooler" in name for name in untrained)
