"""Weights from and for other libraries: transformers and timm give the same logits for the same weights."""

import json
from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.conftest import load_command
from tests.models.small import randomize, save, small_clip, small_timesformer, small_videomae, small_vivit
from timesformer.models.vit import ATTENTION_TYPES
from timesformer.models.weights.convert import convert
from timesformer.models.weights.files import CheckpointError
from timesformer.models.weights.formats import to_native
from timesformer.models.weights.loading import load_pretrained, read_checkpoint

EXACT = {"rtol": 1e-9, "atol": 1e-12}  # float64
pytestmark = pytest.mark.numerical
KINDS = [*ATTENTION_TYPES, "vivit", "videomae", "videomae without mean pooling"]
SIZE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "image_size": 32}


def their_timesformer(attention_type: str = "divided_space_time") -> nn.Module:
    config = transformers.TimesformerConfig(
        **SIZE, patch_size=8, num_frames=4, num_labels=5, attention_type=attention_type
    )
    return randomize(transformers.TimesformerForVideoClassification(config))


def their_vivit() -> nn.Module:
    config = transformers.VivitConfig(**SIZE, tubelet_size=[2, 8, 8], num_frames=4, num_labels=5)
    return randomize(transformers.VivitForVideoClassification(config))


def their_videomae(seed: int = 0, **changes: object) -> nn.Module:
    config = transformers.VideoMAEConfig(**SIZE | {"patch_size": 8, "num_frames": 4, "num_labels": 5} | changes)
    return randomize(transformers.VideoMAEForVideoClassification(config), seed)


def model_pair(kind: str) -> tuple[nn.Module, nn.Module]:
    """A model of this project and another of transformers, of the same architecture."""
    if kind == "vivit":
        return small_vivit(seed=1), their_vivit()
    if kind.startswith("videomae"):
        pooled = kind == "videomae"
        return small_videomae(1, mean_pooling=pooled, norm_eps=1e-12), their_videomae(use_mean_pooling=pooled)
    return small_timesformer(kind, seed=1), their_timesformer(kind)


@torch.no_grad()
def their_logits(model: nn.Module, pictures: Tensor) -> Tensor:
    pictures = pictures.transpose(1, 2)
    if getattr(model.config, "attention_type", "") != "space_only":
        return model(pictures).logits
    # Transformers classifies the frames of a space-only model one by one; the paper averages them before the norm.
    hidden = model.timesformer.encoder(model.timesformer.embeddings(pictures))[0]
    return model.classifier(model.timesformer.layernorm(hidden.unflatten(0, (2, -1)).mean(1))[:, 0])


@torch.no_grad()
def assert_same_logits(ours: nn.Module, theirs: nn.Module) -> None:
    """In float64, so that rounding does not matter."""
    pictures = small_clip().double()
    expected = their_logits(theirs.double(), pictures)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours.double()(pictures), expected, **EXACT)


class TestFromHuggingFace:
    def test_recorded_names(self, golden_dir: Path) -> None:
        pairs = json.loads((golden_dir / "hf_key_map.json").read_text())["exact_3_layer_divided"]
        state = {theirs: torch.zeros(1) for theirs in pairs}
        renamed, _ = to_native(state)
        assert set(renamed) == set(pairs.values())
        assert all(renamed[ours] is state[theirs] for theirs, ours in pairs.items())

    @pytest.mark.parametrize("kind", KINDS)
    def test_folder(self, tmp_path: Path, kind: str) -> None:
        ours, theirs = model_pair(kind)
        theirs.save_pretrained(tmp_path, max_shard_size="20KB")  # several files with an index
        assert not (tmp_path / "model.safetensors").exists()
        load_pretrained(ours, tmp_path, strict=True)
        assert_same_logits(ours, theirs)

    def test_names_of_transformers_4(self, tmp_path: Path) -> None:
        theirs, ours, state = their_vivit(), small_vivit(seed=1), {}
        older = {"layers": "encoder.layer", "q_proj": "attention.query", "k_proj": "attention.key"}
        older |= {"v_proj": "attention.value", "o_proj": "output.dense", "mlp.fc1": "intermediate.dense"}
        for name, tensor in theirs.state_dict().items():
            for new, old in {**older, "mlp.fc2": "output.dense"}.items():
                name = name.replace(new, old)
            state[name] = tensor
        assert "vivit.encoder.layer.1.attention.attention.query.bias" in state
        save_file(state, tmp_path / "any name")
        load_pretrained(ours, tmp_path / "any name", strict=True)
        assert_same_logits(ours, theirs)

    def test_recorded_logits(self, golden_dir: Path, tmp_path: Path) -> None:
        size = {"num_classes": 11, "embed_dim": 48, "depth": 3}
        recorded = torch.load(golden_dir / "timesformer_hf_case.pt", weights_only=True)
        vivit = torch.load(golden_dir / "vivit_hf_case.pt", weights_only=True)
        cases = [(small_vivit(**size), vivit["state_dict"], vivit["input_btchw"], vivit["logits"])]
        for attention_type, case in recorded["cases"].items():
            state = {name: recorded["hf_state_dict"][name] for name in case["state_dict_keys"]}
            cases.append((small_timesformer(attention_type, **size), state, recorded["input_btchw"], case["logits"]))
        for ours, state, clip, logits in cases:
            load_pretrained(ours, save(state, tmp_path), strict=True)
            with torch.no_grad():
                found = ours.double()(clip.double().transpose(1, 2))
            torch.testing.assert_close(found, logits.double(), rtol=0, atol=1e-5)  # recorded in float32

    def test_image_vit_starts_a_vivit(self, tmp_path: Path) -> None:
        config = transformers.ViTConfig(**SIZE, patch_size=8, num_labels=7)
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
        report = load_pretrained(small_vivit(num_frames=8), tmp_path)
        assert set(report.new) == set(report.unused) == {"head.weight", "head.bias"}

    def test_another_number_of_heads_is_refused(self, tmp_path: Path) -> None:
        their_timesformer().save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"TIMESFORMER\.NUM_HEADS"):
            load_pretrained(small_timesformer(num_heads=8), tmp_path)

    def test_incomplete_index_is_refused(self, tmp_path: Path) -> None:
        their_vivit().save_pretrained(tmp_path, max_shard_size="20KB")
        index = tmp_path / "model.safetensors.index.json"
        (tmp_path / next(iter(json.loads(index.read_text())["weight_map"].values()))).unlink()
        with pytest.raises(CheckpointError, match=str(index)):
            read_checkpoint(tmp_path)


class TestToHuggingFace:
    @pytest.mark.parametrize("kind", KINDS)
    def test_same_logits(self, tmp_path: Path, kind: str) -> None:
        ours, _ = model_pair(kind)
        content = {"model_state": {f"model.{k}": v for k, v in ours.state_dict().items()}}
        if kind.startswith("videomae"):  # its tensors do not give the size of a clip
            data = "{TRAIN_CROP_SIZE: 32, TEST_CROP_SIZE: 32, TRAIN_JITTER_SCALES: [32, 32]}"
            content["cfg"] = f"MODEL: {{MODEL_NAME: VideoMAE}}\nDATA: {data}\nVIDEOMAE: {{NORM_EPS: 1.0e-12}}\n"
        path = save(content, tmp_path)
        convert(str(path), tmp_path / "hf", "hf", num_heads=4, num_frames=None if kind in ATTENTION_TYPES else 4)
        theirs, info = transformers.AutoModelForVideoClassification.from_pretrained(
            tmp_path / "hf", output_loading_info=True
        )
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert_same_logits(ours, theirs.eval())

    def test_round_trip_of_the_original(self, golden_dir: Path, tmp_path: Path) -> None:
        source = golden_dir / "finetune_ckpt_div.pyth"
        convert(str(source), tmp_path / "hf", "hf", num_heads=4)
        convert(str(tmp_path / "hf"), tmp_path / "back.pyth", "pyth")
        first, back = (torch.load(path, weights_only=True)["model_state"] for path in (source, tmp_path / "back.pyth"))
        assert back.keys() == first.keys()
        assert all(torch.equal(back[name], first[name]) for name in first)

    def test_assumed_heads(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = save(small_timesformer(embed_dim=128, depth=1).state_dict(), tmp_path)
        convert(str(path), tmp_path / "hf", "hf")
        assert json.loads((tmp_path / "hf/config.json").read_text())["num_attention_heads"] == 2
        assert "--num-heads" in caplog.text

    @pytest.mark.parametrize(
        ("attention_type", "frames"), [("factorised_encoder", 4), ("factorised_self_attention", 4), ("joint", None)]
    )
    def test_vivit_that_cannot_be_exported(self, tmp_path: Path, attention_type: str, frames: int | None) -> None:
        path = save(small_vivit(attention_type).state_dict(), tmp_path)
        with pytest.raises(CheckpointError, match=str(path) if frames else "--num-frames"):
            convert(str(path), tmp_path / "hf", "hf", 4, frames)
        assert not (tmp_path / "hf").exists()


class TestCommand:
    def run(self, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["convert_checkpoint.py", *map(str, arguments)])
        return load_command("convert").main()

    def test_safetensors_keep_options_and_progress(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        content = {"epoch": 2, "cfg": "MODEL: {}\n", "progress": {"epoch": 3, "class_names": list("abcde")}}
        state = small_timesformer().state_dict()
        path = save({"model_state": state, "optimizer_state": {"state": {}}, **content}, tmp_path)
        assert self.run(monkeypatch, path, tmp_path / "out", "--to", "safetensors") == 0
        assert set(load_file(tmp_path / "out")) == {f"model.{name}" for name in state}
        rest = read_checkpoint(tmp_path / "out").rest
        assert {key: rest[key] for key in content} == content

    @pytest.mark.parametrize("options", [("--to", "pyth", "--num-heads", "4"), ("--to", "hf", "--num-heads", "5")])
    def test_invalid_arguments(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple
    ) -> None:
        path = save(small_timesformer().state_dict(), tmp_path)
        assert self.run(monkeypatch, path, tmp_path / "out", *options) == 2
        assert "--num-heads" in capsys.readouterr().err
        assert self.run(monkeypatch, path, path, "--to", "pyth") == 2
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("layer_scale", [None, 0.1])
def test_timm(layer_scale: float | None, tmp_path: Path) -> None:
    tolerance = (
        {"rtol": 1e-5, "atol": 1e-7} if layer_scale else EXACT
    )  # the products of factors and weights are rounded
    sizes = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 4}
    theirs = randomize(timm.create_model("vit_tiny_patch16_224", **sizes, init_values=layer_scale))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    ours = small_timesformer("space_only", patch_size=16, num_classes=1000)
    load_pretrained(ours, tmp_path / "model.safetensors", strict=True)
    picture = small_clip().double()[:, :, 0]
    with torch.no_grad():
        torch.testing.assert_close(ours.double()(picture.unsqueeze(2)), theirs.double()(picture), **tolerance)
