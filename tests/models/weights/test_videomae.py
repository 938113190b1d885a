"""Files of VideoMAE: of its original project, which has other names and parts than transformers, and of the hub."""

import json
from argparse import Namespace
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.models.small import randomize, save, small_clip, small_videomae
from timesformer.config.sources import ZOO
from timesformer.inference.classifier import load_model
from timesformer.models.weights.convert import convert
from timesformer.models.weights.download import local_path
from timesformer.models.weights.files import CheckpointError
from timesformer.models.weights.loading import load_pretrained, read_checkpoint
from timesformer.paths import HTTPHandler

pytestmark = pytest.mark.numerical
SIZE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "image_size": 32}
SIZE |= {"patch_size": 8, "num_frames": 4, "layer_norm_eps": 1e-6}
DECODER = {"decoder_hidden_size": 16, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1}
DECODER |= {"decoder_intermediate_size": 32}


def classifier() -> nn.Module:
    return randomize(transformers.VideoMAEForVideoClassification(transformers.VideoMAEConfig(**SIZE, num_labels=5)))


def encoder_of_the_original(model: nn.Module) -> dict[str, Tensor]:
    """A model of transformers under the names in modeling_finetune.py of MCG-NJU/VideoMAE."""
    embedding = model.videomae.embeddings.patch_embeddings.projection
    state = {"patch_embed.proj.weight": embedding.weight, "patch_embed.proj.bias": embedding.bias}
    for number, layer in enumerate(model.videomae.encoder.layer):
        attention = layer.attention.attention
        queries, keys, values = attention.query, attention.key, attention.value
        parts = {
            "norm1": layer.layernorm_before,
            "attn.proj": layer.attention.output.dense,
            "norm2": layer.layernorm_after,
            "mlp.fc1": layer.intermediate.dense,
            "mlp.fc2": layer.output.dense,
        }
        block = {f"{name}.{kind}": getattr(part, kind) for name, part in parts.items() for kind in ("weight", "bias")}
        block |= {"attn.q_bias": queries.bias, "attn.v_bias": values.bias}
        block["attn.qkv.weight"] = torch.cat([queries.weight, keys.weight, values.weight])
        state |= {f"blocks.{number}.{name}": tensor for name, tensor in block.items()}
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def finetuned_original(model: nn.Module) -> dict[str, Tensor]:
    head = {"fc_norm": model.fc_norm, "head": model.classifier}
    tensors = {
        f"{name}.{kind}": getattr(part, kind).detach() for name, part in head.items() for kind in ("weight", "bias")
    }
    return encoder_of_the_original(model) | tensors


@torch.no_grad()
def assert_same_logits(ours: nn.Module, theirs: nn.Module) -> None:
    clip = small_clip().double()
    expected = theirs.double()(clip.transpose(1, 2)).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(ours.double()(clip), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layout", ["module of deepspeed", "model with arguments", "prefix of a wrapper"])
def test_finetuned_file_of_the_original(tmp_path: Path, layout: str) -> None:
    theirs, ours = classifier(), small_videomae(seed=1)
    state = finetuned_original(theirs)
    content = {
        "module of deepspeed": {"module": state, "optimizer": None, "ds_version": "0.5", "global_steps": 3},
        "model with arguments": {"model": state, "epoch": 3, "args": Namespace(lr=0.1, opt_betas=[0.9, 0.999])},
        "prefix of a wrapper": {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    }[layout]
    path = save(content, tmp_path)
    load_pretrained(ours, path, strict=True)
    assert_same_logits(ours, theirs)


def test_half_precision_file_of_the_original_to_transformers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As V2's distilled models; the size of a clip and of a head are not in such a file."""
    size = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}
    config = transformers.VideoMAEConfig(**SIZE | size | {"image_size": 112, "num_frames": 16}, num_labels=5)
    theirs = randomize(transformers.VideoMAEForVideoClassification(config), std=0.05)
    state = {name: tensor.half() for name, tensor in finetuned_original(theirs).items()}
    for parameter in theirs.parameters():
        parameter.data = parameter.half().float()
    path = save({"module": state}, tmp_path)
    convert(str(path), tmp_path / "hf", "hf")
    assert all(word in caplog.text for word in ("--num-heads", "--num-frames", "112 x 112"))
    again = transformers.AutoModelForVideoClassification.from_pretrained(tmp_path / "hf").eval()
    clip = torch.randn(1, 16, 3, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(again(clip).logits, theirs(clip).logits, rtol=0, atol=1e-6)


def test_pretrained_file_of_the_original(tmp_path: Path) -> None:
    theirs, ours = classifier(), small_videomae(seed=1)
    fresh = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    encoder = encoder_of_the_original(theirs) | {"norm.weight": torch.ones(24), "norm.bias": torch.zeros(24)}
    decoder = {"mask_token": torch.ones(1, 1, 16), "encoder_to_decoder.weight": torch.ones(16, 24)}
    decoder["decoder.blocks.0.attn.q_bias"] = torch.ones(16)
    state = {f"encoder.{name}": tensor for name, tensor in encoder.items()} | decoder
    report = load_pretrained(ours, save({"model": state, "args": Namespace(mask_ratio=0.9)}, tmp_path))
    assert set(report.unused) >= {"mask_token", "encoder_to_decoder.weight", "norm.weight"}
    assert set(report.new) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    for name in report.new:
        part = {"fc_norm": theirs.fc_norm, "head": theirs.classifier}[name.split(".")[0]]
        getattr(part, name.split(".")[1]).data = fresh[name]
    assert_same_logits(ours, theirs)


def test_pretrained_folder_of_transformers(tmp_path: Path) -> None:
    config = transformers.VideoMAEConfig(**SIZE, **DECODER, use_mean_pooling=False, num_labels=5)
    pretrained = randomize(transformers.VideoMAEForPreTraining(config))
    pretrained.save_pretrained(tmp_path)
    ours = small_videomae(seed=1, mean_pooling=False)
    theirs = transformers.VideoMAEForVideoClassification(config)
    theirs.videomae = pretrained.videomae
    theirs.classifier.load_state_dict(ours.head.state_dict())
    report = load_pretrained(ours, tmp_path)
    assert set(report.new) == {"head.weight", "head.bias"}
    assert_same_logits(ours, theirs.eval())


@pytest.mark.parametrize("names", [("q_bias", "v_bias"), ("query.bias", "value.bias")])
def test_names_of_versions_of_transformers(tmp_path: Path, names: tuple[str, str]) -> None:
    theirs, ours, state = classifier(), small_videomae(seed=1), {}
    for name, tensor in theirs.state_dict().items():
        for now, then in zip(("query.bias", "value.bias"), names, strict=True):
            name = name.replace(f"attention.attention.{now}", f"attention.attention.{then}")
        state[name] = tensor
    assert f"videomae.encoder.layer.1.attention.attention.{names[0]}" in state
    save_file(state, tmp_path / "model.safetensors")
    load_pretrained(ours, tmp_path / "model.safetensors", strict=True)
    assert_same_logits(ours, theirs)


def test_folder_of_v2(tmp_path: Path) -> None:
    """Its configuration is for code in its repository, which is not run."""
    theirs, ours = classifier(), small_videomae(seed=1)
    state = {f"model.{name}": tensor for name, tensor in finetuned_original(theirs).items()}
    save_file(state, tmp_path / "model.safetensors")
    config = {"model_type": "VideoMAEv2_Base", "model_config": {"embed_dim": 24}, "auto_map": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    load_pretrained(ours, tmp_path, strict=True)
    assert_same_logits(ours, theirs)


def test_pretrained_weights_have_no_classes_to_export(tmp_path: Path) -> None:
    path = save(encoder_of_the_original(classifier()), tmp_path)
    with pytest.raises(CheckpointError, match="head"):
        convert(str(path), tmp_path / "hf", "hf")


def test_released_file_of_v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path = save({"module": finetuned_original(classifier())}, tmp_path)
    asked = []
    monkeypatch.setattr(
        HTTPHandler, "_get_local_path", lambda self, url, *args, **options: asked.append(url) or str(path)
    )
    name = "VideoMAEv2_B_16x4_224_K710"
    assert local_path(f"zoo:{name}") == path
    assert asked == [ZOO[name].url]
    assert "Apache-2.0" in caplog.text
    assert read_checkpoint(f"zoo:{name}").metadata.mean == (0.485, 0.456, 0.406)


def test_released_folder_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    theirs = classifier()
    theirs.save_pretrained(tmp_path)
    transformers.VideoMAEImageProcessor(image_mean=[0.485, 0.456, 0.406]).save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(tmp_path))
    model = load_model("zoo:VideoMAE_B_16x4_224_K400", "cpu")
    assert set(asked) == {"MCG-NJU/videomae-base-finetuned-kinetics"}
    assert "CC-BY-NC" in caplog.text
    assert (model.cfg.MODEL.MODEL_NAME, model.cfg.DATA.SAMPLING_RATE, model.cfg.VIDEOMAE.NORM_EPS) == (
        "VideoMAE",
        4,
        1e-6,
    )
    assert_same_logits(model.model, theirs)
