"""The configurations under configs/ are valid and described."""

import re
from pathlib import Path

import pytest
import timm

from timesformer.config import check, load_config
from timesformer.config.load import ConfigError
from timesformer.config.sources import ZOO

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "configs" / "studies"  # lists of runs, for tests/studies
AS_PUBLISHED = [
    ROOT / "configs" / "HMDB" / f"{name}.yaml" for name in ("TimeSformer_divST_8x32_224", "ViViT_joint_32x2_224")
]
SHIPPED = sorted(path for path in ROOT.glob("configs/**/*.yaml") if path.parent != STUDIES)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configuration_is_valid(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = tmp_path / "weights.pyth"
    weights.touch()
    overrides = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "TRAIN.CHECKPOINT_FILE_PATH", str(weights)]
    assert check(load_config(path, overrides, check_values=False), gpus=False) == []
    assert not caplog.messages
    assert path.read_text().startswith("# ")


def trained_normalization(source: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if source.startswith("timm:"):
        described = timm.get_pretrained_cfg(source.removeprefix("timm:"))
        return described.mean, described.std
    model = ZOO.get(source.removeprefix("zoo:"))
    return model and (model.mean, model.std)


@pytest.mark.parametrize("path", [path for path in SHIPPED if path not in AS_PUBLISHED], ids=lambda p: p.stem)
def test_mean_and_std_are_those_of_the_weights_in_the_command(path: Path) -> None:
    """Except in the HMDB_simp study."""
    cfg = load_config(path, check_values=False)
    for source in re.findall(r"CHECKPOINT_FILE_PATH:? ([\w:.]+?)(?:\.pyth)?\n", path.read_text()):
        if expected := trained_normalization(source):
            assert (tuple(cfg.DATA.MEAN), tuple(cfg.DATA.STD)) == expected


def test_output_folders_differ() -> None:
    folders = [load_config(path, check_values=False).OUTPUT_DIR for path in SHIPPED]
    assert len(set(folders)) == len(folders)


def test_files_in_messages_have_short_paths() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("Folder/VideoMAE_B_16x4_224", ["SOLVER.MAX_EPOCH", "1"])
    assert "set SOLVER.WARMUP_EPOCHS 0" in str(caught.value)
    assert "configs/Kinetics/VideoMAE_B_16x4_224.yaml" in str(caught.value)
    assert ".." not in str(caught.value)
