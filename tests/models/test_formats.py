"""Weights from and for other libraries: models made by transformers itself give the same logits on either side."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from timesformer.models.vit import VisionTransformer
from timesformer.models.vivit import VideoTransformer
from timesformer.models.weights.files import CheckpointError
from timesformer.models.weights.formats import metadata_of, to_native
from timesformer.models.weights.loading import load_pretrained, read_checkpoint
from timesformer.torchvision_import import import_package

transformers = pytest.importorskip("transformers")
ROOT = Path(__file__).parents[2]
ATTENTION_TYPES = ("divided_space_time", "joint_space_time", "space_only")
EXACT = {"rtol": 1e-9, "atol": 1e-12}  # of float64
pytestmark = pytest.mark.numerical
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32}


def randomized(model: nn.Module) -> nn.Module:
    """Nothing zero or alike, so that a tensor in the wrong place shows."""
    random = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random) * 0.2
    return model.eval()


def their_timesformer(attention_type: str = "divided_space_time") -> nn.Module:
    config = transformers.TimesformerConfig(
        **SIZE, patch_size=8, num_frames=4, num_labels=5, attention_type=attention_type
    )
    return randomized(transformers.TimesformerForVideoClassification(config))


def their_vivit() -> nn.Module:
    config = transformers.VivitConfig(**SIZE, tubelet_size=[2, 8, 8], num_frames=4, num_labels=5)
    return randomized(transformers.VivitForVideoClassification(config))


def our_timesformer(attention_type: str = "divided_space_time", **changes: object) -> VisionTransformer:
    options = {"img_size": 32, "patch_size": 8, "num_classes": 5, "embed_dim": 32, "depth": 2, "num_heads": 4}
    options |= {"num_frames": 4, "mlp_ratio": 1.5, "qkv_bias": True, "norm_layer": partial(nn.LayerNorm, eps=1e-6)}
    return VisionTransformer(**{**options, **changes}, attention_type=attention_type).eval()


def our_vivit(attention_type: str = "joint", **changes: object) -> VideoTransformer:
    options = {"img_size": 32, "tubelet_size": (2, 8, 8), "num_classes": 5, "embed_dim": 32, "depth": 2}
    options |= {"num_heads": 4, "num_frames": 4, "mlp_ratio": 1.5, "temporal_depth": 1}
    return VideoTransformer(**{**options, **changes}, attention_type=attention_type).eval()


def clip() -> Tensor:
    return torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


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
    """In float64, where only another computation can make a difference."""
    pictures = clip().double()
    expected = their_logits(theirs.double(), pictures)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours.double()(pictures), expected, **EXACT)


class TestFromHuggingFace:
    @pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
    def test_a_timesformer_folder_gives_the_same_logits(self, tmp_path: Path, attention_type: str) -> None:
        theirs, ours = their_timesformer(attention_type), our_timesformer(attention_type)
        theirs.save_pretrained(tmp_path)
        report = load_pretrained(ours, tmp_path, strict=True)
        assert_same_logits(ours, theirs)
        assert len(report.loaded) == len(ours.state_dict())
        assert report.notes == ["Hugging Face TimeSformer: its names were turned into those of this project"]

    def test_a_vivit_folder_gives_the_same_logits(self, tmp_path: Path) -> None:
        theirs, ours = their_vivit(), our_vivit()
        theirs.save_pretrained(tmp_path)
        report = load_pretrained(ours, tmp_path, strict=True)
        assert_same_logits(ours, theirs)
        assert report.notes == ["Hugging Face ViViT: its names were turned into those of this project"]

    def test_several_files_with_an_index_are_read_as_one(self, tmp_path: Path) -> None:
        theirs, ours = their_vivit(), our_vivit()
        theirs.save_pretrained(tmp_path, max_shard_size="20KB")
        assert not (tmp_path / "model.safetensors").exists()
        load_pretrained(ours, tmp_path, strict=True)
        assert_same_logits(ours, theirs)

    def test_the_names_that_transformers_5_has_in_memory_are_known(self, tmp_path: Path) -> None:
        theirs, ours = their_vivit(), our_vivit()
        assert "vivit.layers.0.attention.q_proj.weight" in theirs.state_dict()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
        load_pretrained(ours, tmp_path / "pytorch_model.bin", strict=True)
        assert_same_logits(ours, theirs)

    def test_the_names_of_older_files_are_known(self, tmp_path: Path) -> None:
        theirs, ours = their_vivit(), our_vivit()
        newer = {"layers": "encoder.layer", "q_proj": "attention.query", "k_proj": "attention.key"}
        newer |= {"v_proj": "attention.value", "o_proj": "output.dense", "mlp.fc1": "intermediate.dense"}
        state = {}
        for name, tensor in theirs.state_dict().items():
            for new, old in {**newer, "mlp.fc2": "output.dense"}.items():
                name = name.replace(new, old)
            state[name] = tensor
        assert "vivit.encoder.layer.1.attention.attention.query.bias" in state
        save_file(state, tmp_path / "a name that says nothing")
        load_pretrained(ours, tmp_path / "a name that says nothing", strict=True)
        assert_same_logits(ours, theirs)

    def test_the_reference_numbers_of_both_models_are_met(self, golden_dir: Path, tmp_path: Path) -> None:
        size = {"img_size": 32, "num_classes": 11, "embed_dim": 48, "depth": 3, "num_heads": 4, "mlp_ratio": 4.0}
        case = torch.load(golden_dir / "vivit_hf_case.pt", weights_only=True)
        torch.save(case["state_dict"], tmp_path / "vivit.bin")
        ours = our_vivit(**size)
        load_pretrained(ours, tmp_path / "vivit.bin", strict=True)
        with torch.no_grad():
            logits = ours.double()(case["input_btchw"].double().transpose(1, 2))
        # What is left is the rounding of the recorded float32.
        torch.testing.assert_close(logits, case["logits"].double(), rtol=0, atol=1e-5)

        golden = torch.load(golden_dir / "timesformer_hf_case.pt", weights_only=True)
        for attention_type, case in golden["cases"].items():
            state = {name: golden["hf_state_dict"][name] for name in case["state_dict_keys"]}
            torch.save(state, tmp_path / attention_type)
            ours = our_timesformer(attention_type, **size)
            load_pretrained(ours, tmp_path / attention_type, strict=True)
            with torch.no_grad():
                logits = ours.double()(golden["input_btchw"].double().transpose(1, 2))
            torch.testing.assert_close(logits, case["logits"].double(), rtol=0, atol=1e-5)

    def test_every_name_of_the_reference_map_is_turned_into_its_own(self, golden_dir: Path) -> None:
        pairs = json.loads((golden_dir / "hf_key_map.json").read_text())["exact_3_layer_divided"]
        state = {theirs: torch.zeros(1) for theirs in pairs}
        renamed, _ = to_native(state)
        assert set(renamed) == set(pairs.values())
        for theirs, ours in pairs.items():
            assert renamed[ours] is state[theirs]

    def test_an_image_vit_of_transformers_starts_a_vivit(self, tmp_path: Path) -> None:
        config = transformers.ViTConfig(**SIZE, patch_size=8, num_labels=7)
        theirs = randomized(transformers.ViTForImageClassification(config))
        theirs.save_pretrained(tmp_path)
        ours = our_vivit(num_frames=8)
        report = load_pretrained(ours, tmp_path)
        assert set(report.new) == set(report.unused) == {"head.weight", "head.bias"}
        still = clip()[:, :, :1].expand(-1, -1, 8, -1, -1).double()
        with torch.no_grad():
            tubelets = ours.double().patch_embed(still)
            patches = theirs.double().vit.embeddings.patch_embeddings(still[:, :, 0])
        torch.testing.assert_close(tubelets[:, 0].flatten(1, 2), patches, **EXACT)

    def test_another_number_of_heads_is_refused(self, tmp_path: Path) -> None:
        their_timesformer().save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"its attention has 4 heads, expected 8 \(TIMESFORMER\.NUM_HEADS\)"):
            load_pretrained(our_timesformer(num_heads=8), tmp_path)

    def test_another_activation_and_epsilon_are_told(self, tmp_path: Path) -> None:
        their_timesformer().save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu_fast", "layer_norm_eps": 1e-12}))
        notes = load_pretrained(our_timesformer(), tmp_path).notes
        assert any("trained with gelu_fast" in note for note in notes)
        assert any("epsilon of 1e-12" in note for note in notes)

    @pytest.mark.parametrize("damage", ["missing", "elsewhere", "lacking"])
    def test_an_index_that_does_not_hold_is_refused(self, tmp_path: Path, damage: str) -> None:
        their_vivit().save_pretrained(tmp_path, max_shard_size="20KB")
        index = tmp_path / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        name = next(iter(content["weight_map"].values()))
        if damage == "missing":
            (tmp_path / name).unlink()
        elif damage == "elsewhere":
            content["weight_map"]["more"] = "../outside.safetensors"
            (tmp_path.parent / "outside.safetensors").touch()
        else:
            content["weight_map"]["more"] = name
        index.write_text(json.dumps(content))
        problem = "lack, such as more" if damage == "lacking" else "which is not beside it"
        with pytest.raises(CheckpointError, match=problem):
            read_checkpoint(tmp_path)

    @pytest.mark.parametrize("kept", [0.3, 0.99])
    def test_safetensors_cut_short_are_refused(self, tmp_path: Path, kept: float) -> None:
        path = tmp_path / "model.safetensors"
        save_file({f"blocks.{i}.weight": torch.zeros(10) for i in range(9)}, path)
        path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
        with pytest.raises(CheckpointError, match="is damaged or cut short"):
            read_checkpoint(path)


class TestToHuggingFace:
    @pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
    def test_an_export_of_timesformer_gives_the_same_logits(
        self, converter: ModuleType, tmp_path: Path, attention_type: str
    ) -> None:
        ours = randomized(our_timesformer(attention_type))
        torch.save({"model_state": {f"model.{k}": v for k, v in ours.state_dict().items()}}, tmp_path / "ours.pyth")
        converter.convert(str(tmp_path / "ours.pyth"), tmp_path / "hf", "hf", num_heads=4, num_frames=None)
        theirs, info = transformers.TimesformerForVideoClassification.from_pretrained(
            tmp_path / "hf", output_loading_info=True
        )
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert_same_logits(ours, theirs.eval())

    def test_an_export_loads_in_a_clean_process_with_the_same_logits(
        self, converter: ModuleType, tmp_path: Path
    ) -> None:
        ours = randomized(our_vivit())
        torch.save({"model_state": ours.state_dict()}, tmp_path / "ours.pyth")
        converter.convert(str(tmp_path / "ours.pyth"), tmp_path / "hf", "hf", num_heads=4, num_frames=4)
        torch.save(clip().double().transpose(1, 2), tmp_path / "clip.pt")
        script = (
            "import sys, torch; from timesformer.torchvision_import import repair_torchvision\n"
            "repair_torchvision(); from transformers import AutoModelForVideoClassification as Model\n"
            "folder = sys.argv[1]\n"
            "model, info = Model.from_pretrained(folder + '/hf', output_loading_info=True)\n"
            "assert not any(info[kind] for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), info\n"
            "with torch.no_grad():\n"
            "    torch.save(model.double().eval()(torch.load(folder + '/clip.pt')).logits, folder + '/logits.pt')\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=tmp_path, env=environment)
        with torch.no_grad():
            expected = ours.double()(clip().double())
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, **EXACT)

    @pytest.mark.parametrize("kind", ["timesformer", "vivit"])
    @pytest.mark.parametrize("between", ["pyth", "safetensors"])
    def test_there_and_back_nothing_is_lost(
        self, converter: ModuleType, tmp_path: Path, kind: str, between: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        theirs = their_vivit() if kind == "vivit" else their_timesformer()
        theirs.config.id2label = dict(enumerate("abcde"))
        theirs.config.label2id = {name: label for label, name in enumerate("abcde")}
        theirs.save_pretrained(tmp_path / "first")
        converter.convert(str(tmp_path / "first"), tmp_path / "ours", between, None, None)
        converter.convert(str(tmp_path / "ours"), tmp_path / "second", "hf", None, None)
        again = type(theirs).from_pretrained(tmp_path / "second").eval()
        torch.testing.assert_close(their_logits(again, clip()), their_logits(theirs, clip()), rtol=0, atol=0)
        for key in ("num_attention_heads", "num_frames", "image_size", "hidden_act", "id2label", "qkv_bias"):
            assert getattr(again.config, key) == getattr(theirs.config, key)
        assert "does not say how many heads" not in caplog.text

    def test_the_originals_tensors_come_back_as_they_were(
        self, converter: ModuleType, golden_dir: Path, tmp_path: Path
    ) -> None:
        source = golden_dir / "finetune_ckpt_div.pyth"
        converter.convert(str(source), tmp_path / "hf", "hf", 4, None)
        converter.convert(str(tmp_path / "hf"), tmp_path / "back.pyth", "pyth", None, None)
        first = torch.load(source, weights_only=True)["model_state"]
        back = torch.load(tmp_path / "back.pyth", weights_only=True)["model_state"]
        assert back.keys() == first.keys()
        assert all(torch.equal(back[name], first[name]) for name in first)

    def test_heads_that_nothing_tells_are_taken_by_convention_with_a_word(
        self, converter: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        torch.save(our_timesformer(embed_dim=128, depth=1).state_dict(), tmp_path / "ours.pyth")
        converter.convert(str(tmp_path / "ours.pyth"), tmp_path / "hf", "hf", None, None)
        assert json.loads((tmp_path / "hf/config.json").read_text())["num_attention_heads"] == 2
        assert "does not say how many heads an attention has: 2 taken" in caplog.text

    @pytest.mark.parametrize("attention_type", ["factorised_encoder", "factorised_self_attention"])
    def test_a_vivit_that_transformers_has_not_is_refused(
        self, converter: ModuleType, tmp_path: Path, attention_type: str
    ) -> None:
        torch.save(our_vivit(attention_type).state_dict(), tmp_path / "ours.pyth")
        with pytest.raises(CheckpointError, match=r"ours\.pyth cannot be written for Hugging Face: it "):
            converter.convert(str(tmp_path / "ours.pyth"), tmp_path / "hf", "hf", 4, 4)
        assert not (tmp_path / "hf").exists()

    def test_a_vivit_of_unknown_frames_asks_for_them(self, converter: ModuleType, tmp_path: Path) -> None:
        torch.save(our_vivit().state_dict(), tmp_path / "ours.pyth")
        with pytest.raises(CheckpointError, match="give --num-frames"):
            converter.convert(str(tmp_path / "ours.pyth"), tmp_path / "hf", "hf", 4, None)


class TestCommand:
    def run(self, converter: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["convert_checkpoint.py", *map(str, arguments)])
        return converter.main()

    def test_a_run_s_checkpoint_keeps_options_and_progress_as_safetensors(
        self, converter: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        progress = {"epoch": 3, "class_names": list("abcde")}
        cfg = "MODEL: {MODEL_NAME: LightTimeSformer}\nTIMESFORMER: {VARIANT: tiny, NUM_HEADS: 12}\n"
        content = {"epoch": 2, "cfg": cfg, "progress": progress, "optimizer_state": {"state": {}}}
        state = our_timesformer(num_heads=2).state_dict()
        torch.save({"model_state": state, **content}, tmp_path / "in.pyth")
        assert self.run(converter, monkeypatch, tmp_path / "in.pyth", tmp_path / "out", "--to", "safetensors") == 0
        assert "left out: optimizer_state" in caplog.text
        assert set(load_file(tmp_path / "out")) == {f"model.{name}" for name in state}
        rest = read_checkpoint(tmp_path / "out").rest
        assert (rest["epoch"], rest["cfg"], rest["progress"]) == (2, cfg, progress)
        assert metadata_of(rest).num_heads == 3
        assert metadata_of(rest).class_names == tuple("abcde")

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (("{in}", "{in}", "--to", "pyth"), "in.pyth exists already"),
            (
                ("{in}", "{out}", "--to", "pyth", "--num-heads", "4"),
                "--num-heads is 4, expected 1 or more, and --to hf",
            ),
            (("{in}", "{out}", "--to", "hf", "--num-heads", "5"), "width 32 cannot be split into 5 heads"),
            (("{out}", "{out}2", "--to", "hf"), "cannot be read as a checkpoint"),
        ],
    )
    def test_a_mistake_ends_with_a_word_and_nothing_written(
        self,
        converter: ModuleType,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        arguments: tuple[str, ...],
        problem: str,
    ) -> None:
        torch.save(our_timesformer().state_dict(), tmp_path / "in.pyth")
        places = {"{in}": str(tmp_path / "in.pyth"), "{out}": str(tmp_path / "out")}
        for key, place in places.items():
            arguments = tuple(argument.replace(key, place) for argument in arguments)
        assert self.run(converter, monkeypatch, *arguments) == 2
        assert problem in caplog.text
        assert [path.name for path in tmp_path.iterdir()] == ["in.pyth"]


class TestFromTimm:
    @pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
    def test_an_image_model_gives_its_features_on_one_frame(self, tmp_path: Path, name: str) -> None:
        pytest.importorskip("timm", exc_type=Exception)
        timm = import_package("timm", "this test")
        theirs = randomized(timm.create_model(name, img_size=32, embed_dim=32, depth=2, num_heads=4))
        save_file(theirs.state_dict(), tmp_path / "model.safetensors")
        ours = our_timesformer("space_only", patch_size=16, mlp_ratio=4.0, num_classes=1000)
        report = load_pretrained(ours, tmp_path / "model.safetensors")
        assert report.new == []
        assert set(report.unused) == ({"dist_token", "head_dist.weight", "head_dist.bias"} if "dist" in name else set())
        if "dist" not in name:  # without its second token a distilled model computes something else
            picture = clip().double()[:, :, 0]
            with torch.no_grad():
                expected = theirs.double()(picture)
                torch.testing.assert_close(ours.double()(picture.unsqueeze(2)), expected, **EXACT)
