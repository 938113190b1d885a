"""Weights from and for other libraries: transformers and timm give the same logits for the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.conftest import load_tool
from tests.models.small import randomize, small_clip, small_timesformer, small_vivit
from timesformer.models.vit import ATTENTION_TYPES
from timesformer.models.weights.convert import convert
from timesformer.models.weights.files import CheckpointError
from timesformer.models.weights.formats import metadata_of, to_native
from timesformer.models.weights.loading import load_pretrained, read_checkpoint

ROOT = Path(__file__).parents[3]
EXACT = {"rtol": 1e-9, "atol": 1e-12}  # float64
pytestmark = pytest.mark.numerical
SIZE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "image_size": 32}


def their_timesformer(attention_type: str = "divided_space_time") -> nn.Module:
    config = transformers.TimesformerConfig(
        **SIZE, patch_size=8, num_frames=4, num_labels=5, attention_type=attention_type
    )
    return randomize(transformers.TimesformerForVideoClassification(config))


def their_vivit() -> nn.Module:
    config = transformers.VivitConfig(**SIZE, tubelet_size=[2, 8, 8], num_frames=4, num_labels=5)
    return randomize(transformers.VivitForVideoClassification(config))


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


def save(content: object, folder: Path) -> Path:
    path = folder / "ours.pyth"
    torch.save(content, path)
    return path


class TestFromHuggingFace:
    @pytest.mark.parametrize("kind", [*ATTENTION_TYPES, "vivit"])
    def test_folder(self, tmp_path: Path, kind: str) -> None:
        theirs = their_vivit() if kind == "vivit" else their_timesformer(kind)
        ours = small_vivit(seed=1) if kind == "vivit" else small_timesformer(kind, seed=1)
        theirs.save_pretrained(tmp_path)
        report = load_pretrained(ours, tmp_path, strict=True)
        assert_same_logits(ours, theirs)
        assert len(report.loaded) == len(ours.state_dict())

    def test_several_files_with_an_index(self, tmp_path: Path) -> None:
        theirs, ours = their_vivit(), small_vivit(seed=1)
        theirs.save_pretrained(tmp_path, max_shard_size="20KB")
        assert not (tmp_path / "model.safetensors").exists()
        load_pretrained(ours, tmp_path, strict=True)
        assert_same_logits(ours, theirs)

    @pytest.mark.parametrize("version", [4, 5])
    def test_names_of_both_versions(self, tmp_path: Path, version: int) -> None:
        theirs, ours, state = their_vivit(), small_vivit(seed=1), {}
        older = {"layers": "encoder.layer", "q_proj": "attention.query", "k_proj": "attention.key"}
        older |= {"v_proj": "attention.value", "o_proj": "output.dense", "mlp.fc1": "intermediate.dense"}
        for name, tensor in theirs.state_dict().items():
            for new, old in ({**older, "mlp.fc2": "output.dense"} if version == 4 else {}).items():
                name = name.replace(new, old)
            state[name] = tensor
        first = {4: "encoder.layer.1.attention.attention.query.bias", 5: "layers.0.attention.q_proj.weight"}
        assert f"vivit.{first[version]}" in state
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

    def test_recorded_names(self, golden_dir: Path) -> None:
        pairs = json.loads((golden_dir / "hf_key_map.json").read_text())["exact_3_layer_divided"]
        state = {theirs: torch.zeros(1) for theirs in pairs}
        renamed, _ = to_native(state)
        assert set(renamed) == set(pairs.values())
        for theirs, ours in pairs.items():
            assert renamed[ours] is state[theirs]

    def test_image_vit_starts_a_vivit(self, tmp_path: Path) -> None:
        config = transformers.ViTConfig(**SIZE, patch_size=8, num_labels=7)
        theirs = randomize(transformers.ViTForImageClassification(config))
        theirs.save_pretrained(tmp_path)
        ours = small_vivit(num_frames=8)
        report = load_pretrained(ours, tmp_path)
        assert set(report.new) == set(report.unused) == {"head.weight", "head.bias"}

    def test_another_number_of_heads_is_refused(self, tmp_path: Path) -> None:
        their_timesformer().save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"TIMESFORMER\.NUM_HEADS"):
            load_pretrained(small_timesformer(num_heads=8), tmp_path)

    def test_another_activation_or_epsilon_is_noted(self, tmp_path: Path) -> None:
        their_timesformer().save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu_fast", "layer_norm_eps": 1e-12}))
        notes = "\n".join(load_pretrained(small_timesformer(), tmp_path).notes)
        assert "gelu_fast" in notes
        assert "1e-12" in notes

    @pytest.mark.parametrize("damage", ["missing", "outside", "lacking"])
    def test_incomplete_index_is_refused(self, tmp_path: Path, damage: str) -> None:
        their_vivit().save_pretrained(tmp_path, max_shard_size="20KB")
        index = tmp_path / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        name = next(iter(content["weight_map"].values()))
        if damage == "missing":
            (tmp_path / name).unlink()
        elif damage == "outside":
            content["weight_map"]["more"] = "../outside.safetensors"
            (tmp_path.parent / "outside.safetensors").touch()
        else:
            content["weight_map"]["more"] = name
        index.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=str(index)):
            read_checkpoint(tmp_path)


class TestToHuggingFace:
    @pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
    def test_timesformer(self, tmp_path: Path, attention_type: str) -> None:
        ours = small_timesformer(attention_type)
        path = save({"model_state": {f"model.{k}": v for k, v in ours.state_dict().items()}}, tmp_path)
        convert(str(path), tmp_path / "hf", "hf", num_heads=4)
        theirs, info = transformers.TimesformerForVideoClassification.from_pretrained(
            tmp_path / "hf", output_loading_info=True
        )
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert_same_logits(ours, theirs.eval())

    @pytest.mark.slow
    def test_vivit_in_a_process_without_this_project(self, tmp_path: Path) -> None:
        ours = small_vivit()
        convert(str(save(ours.state_dict(), tmp_path)), tmp_path / "hf", "hf", num_heads=4, num_frames=4)
        torch.save(small_clip().double().transpose(1, 2), tmp_path / "clip.pt")
        script = (
            "import sys, torch; from timesformer.torchvision_import import repair_torchvision\n"
            "repair_torchvision(); from transformers import AutoModelForVideoClassification as Model\n"
            "folder = sys.argv[1]\n"
            "model, info = Model.from_pretrained(folder + '/hf', output_loading_info=True)\n"
            "assert not any(info[kind] for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), info\n"
            "with torch.no_grad():\n"
            "    torch.save(model.double().eval()(torch.load(folder + '/clip.pt')).logits, folder + '/logits.pt')\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=tmp_path, env=environment)
        with torch.no_grad():
            expected = ours.double()(small_clip().double())
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, **EXACT)

    @pytest.mark.parametrize("kind", ["timesformer", "vivit"])
    @pytest.mark.parametrize("between", ["pyth", "safetensors"])
    def test_round_trip(self, tmp_path: Path, kind: str, between: str, caplog: pytest.LogCaptureFixture) -> None:
        theirs = their_vivit() if kind == "vivit" else their_timesformer()
        theirs.config.id2label = dict(enumerate("abcde"))
        theirs.config.label2id = {name: label for label, name in enumerate("abcde")}
        theirs.save_pretrained(tmp_path / "first")
        convert(str(tmp_path / "first"), tmp_path / "ours", between)
        convert(str(tmp_path / "ours"), tmp_path / "second", "hf")
        again = type(theirs).from_pretrained(tmp_path / "second").eval()
        torch.testing.assert_close(
            their_logits(again, small_clip()), their_logits(theirs, small_clip()), rtol=0, atol=0
        )
        for key in ("num_attention_heads", "num_frames", "image_size", "hidden_act", "id2label", "qkv_bias"):
            assert getattr(again.config, key) == getattr(theirs.config, key)
        assert "--num-heads" not in caplog.text

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
        return load_tool("convert_checkpoint").main()

    def test_safetensors_keep_options_and_progress(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        progress = {"epoch": 3, "class_names": list("abcde")}
        cfg = "MODEL: {MODEL_NAME: LightTimeSformer}\nTIMESFORMER: {VARIANT: tiny, NUM_HEADS: 12}\n"
        content = {"epoch": 2, "cfg": cfg, "progress": progress, "optimizer_state": {"state": {}}}
        state = small_timesformer().state_dict()
        path = save({"model_state": state, **content}, tmp_path)
        assert self.run(monkeypatch, path, tmp_path / "out", "--to", "safetensors") == 0
        assert "optimizer_state" in caplog.text
        assert set(load_file(tmp_path / "out")) == {f"model.{name}" for name in state}
        rest = read_checkpoint(tmp_path / "out").rest
        assert (rest["epoch"], rest["cfg"], rest["progress"]) == (2, cfg, progress)
        assert metadata_of(rest).num_heads == 3
        assert metadata_of(rest).class_names == tuple("abcde")

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (("{in}", "{in}", "--to", "pyth"), "{in}"),
            (("{in}", "{out}", "--to", "pyth", "--num-heads", "4"), "--num-heads"),
            (("{in}", "{out}", "--to", "hf", "--num-heads", "5"), "--num-heads"),
            (("{out}", "{out}2", "--to", "hf"), "{out}"),
        ],
    )
    def test_invalid_arguments(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        arguments: tuple[str, ...],
        named: str,
    ) -> None:
        path, out = save(small_timesformer().state_dict(), tmp_path), tmp_path / "out"
        *arguments, named = (word.replace("{in}", str(path)).replace("{out}", str(out)) for word in (*arguments, named))
        assert self.run(monkeypatch, *arguments) == 2
        assert named in caplog.text
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_timm(tmp_path: Path, name: str) -> None:
    theirs = randomize(timm.create_model(name, img_size=32, embed_dim=24, depth=2, num_heads=4))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    ours = small_timesformer("space_only", patch_size=16, num_classes=1000)
    report = load_pretrained(ours, tmp_path / "model.safetensors")
    assert report.new == []
    assert set(report.unused) == ({"dist_token", "head_dist.weight", "head_dist.bias"} if "dist" in name else set())
    if "dist" not in name:  # without its second token a distilled model computes something else
        picture = small_clip().double()[:, :, 0]
        with torch.no_grad():
            expected = theirs.double()(picture)
            torch.testing.assert_close(ours.double()(picture.unsqueeze(2)), expected, **EXACT)
