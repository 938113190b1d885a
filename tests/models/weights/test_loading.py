"""Loading weights: as the original did in legacy mode, correctly by default, and never running code."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from tests.models.small import save, small_clip, small_timesformer, small_vivit
from timesformer.config import get_cfg
from timesformer.models import build_model
from timesformer.models.build import RegisteredTransformer
from timesformer.models.vivit import VIVIT_MODELS
from timesformer.models.weights.loading import CheckpointError, load_pretrained, read_checkpoint

pytestmark = pytest.mark.numerical
# Embeddings are resized in float32, when loading and in the forward pass; the rest is computed in float64.
RESIZED = {"rtol": 0.0, "atol": 1e-6}


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict:
    return torch.load(golden_dir / "finetune_loading.pt", weights_only=True)


class TestOriginal:
    def test_load_pretrained(self, golden: dict, golden_dir: Path) -> None:
        for job, case in golden["load_pretrained"].items():
            if job.endswith("chan"):  # models of 1 and 5 channels
                continue
            path = golden_dir / case["checkpoint"]
            source = read_checkpoint(path).state
            model = small_timesformer(
                **case["target_config"], attention_type=case["attention_type"], pos_embed_interpolation="legacy"
            )
            model.load_state_dict(case["kept_initial"], strict=False)
            report = load_pretrained(model, path, "legacy")
            expected = {name: source[name] for name in case["same_as_checkpoint"]}
            expected |= {name: source[origin] for name, origin in case["copied_from"].items()}
            expected |= case["changed"] | case["kept_initial"]
            state = model.state_dict()
            assert state.keys() == expected.keys()
            for name, tensor in state.items():
                torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6, msg=f"{job}: {name}")
            assert set(report.loaded) == set(case["same_as_checkpoint"])
            assert set(dict(report.adapted)) == case["changed"].keys() | case["copied_from"].keys()
            assert set(report.new) == set(case["kept_initial"])

    @pytest.mark.parametrize("job", ["same", "other_classes", "other_frames", "other_size"])
    def test_load_checkpoint(self, golden: dict, golden_dir: Path, job: str) -> None:
        case = golden["load_checkpoint"][job]
        path = golden_dir / case["checkpoint"]
        model = RegisteredTransformer(small_timesformer(**case["target_config"]))
        report = load_pretrained(model, path, "legacy")
        assert read_checkpoint(path).rest["epoch"] == case["epoch"]
        torch.testing.assert_close(model.model.time_embed.data, case["time_embed"], rtol=0, atol=1e-6)
        # The original dropped position embeddings of another size here and went on from random ones; they are resized.
        kept = {name.removeprefix("model.") for name in case["kept_initial"]} - {"pos_embed"}
        assert set(report.new) == kept
        if job == "other_size":
            assert "pos_embed" in dict(report.adapted)
        else:
            torch.testing.assert_close(model.model.pos_embed.data, case["pos_embed"], rtol=0, atol=0)


class TestAdapting:
    @pytest.mark.parametrize("side", [4, 16])
    def test_patches_of_another_size(self, tmp_path: Path, side: int) -> None:
        trained, model = small_timesformer(), small_timesformer(patch_size=side, img_size=4 * side)
        slow = F.interpolate(trained.patch_embed.proj.weight.data[:, :, :3, :3], size=(8, 8), mode="bicubic")
        trained.patch_embed.proj.weight.data = slow  # detail of two pixels would be lost in small patches
        report = load_pretrained(model, save(trained.state_dict(), tmp_path), strict=True)
        how = f"patches of 8 x 8 to {side} x {side} pixels, resampled"
        assert report.adapted == [("patch_embed.proj.weight", how)]
        coarse = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).flatten(0, 1)
        sizes = ((32, 32), (4 * side, 4 * side))
        pictures = [F.interpolate(coarse, size=size, mode="bicubic").unflatten(0, (2, 3)) for size in sizes]
        with torch.no_grad():
            expected, answer = trained.patch_embed(pictures[0]), model.patch_embed(pictures[1])
        assert (answer - expected).norm() < 0.1 * expected.norm()

    def test_distilled_vit(self, tmp_path: Path) -> None:
        image, model = small_timesformer("space_only"), small_timesformer("space_only", seed=1)
        state = image.state_dict()
        state["dist_token"] = torch.ones(1, 1, 24)
        state["pos_embed"] = state["pos_embed"][:, [0, 0, *range(1, 17)]]
        state["pos_embed"][:, 1] = 7.0
        report = load_pretrained(model, save(state, tmp_path))
        torch.testing.assert_close(model.pos_embed.data, image.pos_embed.data, rtol=0, atol=0)
        assert report.adapted == [("pos_embed", "entry of the distillation token left out")]
        assert report.unused == ["dist_token"]

    def test_other_widths_are_refused(self, tmp_path: Path) -> None:
        model = small_timesformer(mlp_ratio=2.0)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(CheckpointError, match="mlp"):
            load_pretrained(model, save(small_timesformer().state_dict(), tmp_path))
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    def test_other_model_is_refused(self, tmp_path: Path) -> None:
        path = save({"state_dict": {"layer1.conv.weight": torch.zeros(2)}}, tmp_path)
        with pytest.raises(CheckpointError, match=r"layer1\.conv\.weight"):
            load_pretrained(small_timesformer(), path)


MODELS = [(small_timesformer, "divided_space_time"), *((small_vivit, kind) for kind in VIVIT_MODELS.values())]


@pytest.mark.parametrize(("small", "attention_type"), MODELS)
@pytest.mark.parametrize("changes", [{"num_frames": 8}, {"img_size": 48}])
def test_resizing_equals_interpolation_in_the_forward_pass(
    tmp_path: Path, small: Callable[..., nn.Module], attention_type: str, changes: dict[str, int]
) -> None:
    trained, model = small(attention_type), small(attention_type, seed=1, **changes)
    load_pretrained(model, save(trained.state_dict(), tmp_path), strict=True)
    clip = small_clip(changes.get("num_frames", 4), changes.get("img_size", 32)).double()
    with torch.no_grad():
        torch.testing.assert_close(model.double()(clip), trained.double()(clip), **RESIZED)


class TestViViT:
    def test_tubelets_from_patches(self, tmp_path: Path) -> None:
        image = small_timesformer("space_only")
        path = save(image.state_dict(), tmp_path)
        for init in ("central", "inflate"):
            model = small_vivit(tubelet_init=init)
            report = load_pretrained(model, path)
            picture = small_clip(frames=1).expand(-1, -1, 4, -1, -1)
            with torch.no_grad():
                picture = picture.double()
                tokens = model.double().patch_embed(picture)
                expected = image.double().patch_embed(picture[:, :, :2])
            torch.testing.assert_close(tokens, expected, rtol=1e-9, atol=1e-12)
            assert ("patch_embed.proj.weight", f"to tubelets of 2 frames ({init})") in report.adapted

    @pytest.mark.parametrize(
        ("kind", "how"),
        [
            ("joint", "repeated over 2 steps"),
            ("factorised_encoder", ""),
            ("factorised_self_attention", "entry of the class token left out, repeated over 2 steps"),
        ],
    )
    def test_image_model(self, tmp_path: Path, kind: str, how: str) -> None:
        image, model = small_timesformer("space_only"), small_vivit(kind)
        report = load_pretrained(model, save(image.state_dict(), tmp_path))
        assert all("temporal_" in name for name in report.new)  # with a copy, temporal layers would act at once
        assert dict(report.adapted).get("pos_embed", "") == how
        expected = image.pos_embed[:, 1:].repeat(1, 2 if how else 1, 1)
        torch.testing.assert_close(model.pos_embed[:, -expected.shape[1] :], expected, rtol=0, atol=1e-6)

    def test_another_size_and_length(self, tmp_path: Path) -> None:
        trained, model = small_vivit(), small_vivit(img_size=48, num_frames=8)
        with pytest.raises(CheckpointError, match="pos_embed"):
            load_pretrained(model, save(trained.state_dict(), tmp_path))
        content = {"model_state": trained.state_dict(), "cfg": "DATA: {TRAIN_CROP_SIZE: 32, NUM_FRAMES: 4}"}
        report = load_pretrained(model, save(content, tmp_path))
        assert report.adapted == [("pos_embed", "4 x 4 to 6 x 6 patches, 2 to 4 steps")]

    def test_several_steps_do_not_become_one(self, tmp_path: Path) -> None:
        path = save(small_vivit(num_frames=8).state_dict(), tmp_path)
        with pytest.raises(CheckpointError, match="pos_embed"):
            load_pretrained(small_vivit("factorised_encoder"), path)
        with pytest.raises(CheckpointError, match=r"patch_embed\.proj\.weight"):
            load_pretrained(small_timesformer(), path)


def test_strict_loading(tmp_path: Path) -> None:
    path = str(save(small_timesformer(num_classes=7).state_dict(), tmp_path))
    cfg = get_cfg()
    cfg.merge_from_list(["DATA.TRAIN_CROP_SIZE", 32, "DATA.NUM_FRAMES", 4, "MODEL.NUM_CLASSES", 5])
    size = {"EMBED_DIM": 24, "DEPTH": 2, "NUM_HEADS": 4, "PATCH_SIZE": 8, "PRETRAINED_MODEL": path}
    cfg.TIMESFORMER.update(size)
    build_model(cfg)
    cfg.TRAIN.STRICT_LOADING = True
    with pytest.raises(CheckpointError, match=r"TRAIN\.STRICT_LOADING.*head\.weight"):
        build_model(cfg)


CONTAINERS = ["model_state", "model", "state_dict", "model_state_dict", "net", "module", "weights", "teacher"]
CONTAINERS += ["model_ema", "ema", None]


class TestReading:
    @pytest.mark.parametrize("container", CONTAINERS)
    @pytest.mark.parametrize("prefix", ["", "module.", "module.model.", "_orig_mod.model.", "net.", "backbone."])
    def test_containers_and_prefixes(self, tmp_path: Path, container: str | None, prefix: str) -> None:
        state = {f"{prefix}norm.weight": torch.ones(3)}
        content = {container: state, "epoch": 7} if container else state
        checkpoint = read_checkpoint(save(content, tmp_path))
        assert list(checkpoint.state) == ["norm.weight"]
        assert checkpoint.rest == ({"epoch": 7} if container else {})

    @pytest.mark.parametrize("averaged", ["model_ema", "state_dict_ema", "ema_state"])
    def test_moving_average(self, tmp_path: Path, averaged: str) -> None:
        average = {"updates": 7, "weights": {"module.norm.weight": torch.full((3,), 2.0)}}
        path = save({averaged: average, "model": {"norm.weight": torch.ones(3)}}, tmp_path)
        checkpoint = read_checkpoint(path)
        assert checkpoint.state["norm.weight"].tolist() == [1.0] * 3
        assert f"--weights {averaged}" in checkpoint.notes[0]
        assert read_checkpoint(path, averaged).state["norm.weight"].tolist() == [2.0] * 3
        alone = read_checkpoint(save({averaged: average["weights"]}, tmp_path))
        assert (alone.state["norm.weight"].tolist(), alone.notes) == ([2.0] * 3, ())

    def test_folder_of_a_run(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (inner := tmp_path / "checkpoints").mkdir()
        newest = "checkpoint_epoch_00010_iteration_00000004.pyth"
        for name in ("checkpoint_epoch_00002.pyth", newest, "checkpoint_epoch_00010.pyth", "other.pyth"):
            save({"norm.weight": torch.ones(1)}, inner).rename(inner / name)
        assert read_checkpoint(tmp_path).source == read_checkpoint(inner).source == str(inner / newest)
        assert newest in caplog.text
        save({"norm.weight": torch.ones(1)}, inner).rename(inner / "best.pyth")
        assert read_checkpoint(tmp_path).source == str(inner / "best.pyth")

    def test_code_is_not_run(self, tmp_path: Path) -> None:
        witness = tmp_path / "it ran"

        class Attack:
            def __reduce__(self) -> tuple:
                return os.mkdir, (str(witness),)

        path = save({"model_state": Attack()}, tmp_path)
        with pytest.raises(CheckpointError, match=r"weights\.pyth"):
            read_checkpoint(path)
        path.write_bytes(pickle.dumps(Attack(), protocol=2))
        with pytest.raises(CheckpointError, match="mkdir"):
            read_checkpoint(path)
        assert not witness.exists()

    @pytest.mark.parametrize(
        ("content", "problem"),
        [(b"\n <!DOCTYPE HTML><html></html>", "web page"), (b"version https://git-lfs.github.com/spec/v1\n", "lfs")],
    )
    def test_other_files_are_refused(self, tmp_path: Path, content: bytes, problem: str) -> None:
        (tmp_path / "weights.pyth").write_bytes(content)
        with pytest.raises(CheckpointError, match=problem):
            read_checkpoint(tmp_path / "weights.pyth")

    @pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
    def test_incomplete_file_is_refused(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "weights.pyth"
        if kind == "safetensors":
            save_file({"w": torch.zeros(1000)}, path)
        else:
            torch.save({"w": torch.zeros(1000)}, path, _use_new_zipfile_serialization=kind == "zip")
        whole = path.read_bytes()
        for left_out in (10, 2000, len(whole)):
            path.write_bytes(whole[:-left_out])
            with pytest.raises(CheckpointError, match=str(path)):
                read_checkpoint(path)

    def test_path_without_weights(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.pyth", tmp_path, save({"epoch": 3}, tmp_path)):
            with pytest.raises(CheckpointError, match=str(path)):
                read_checkpoint(path)
