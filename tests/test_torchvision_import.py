"""Importing torchvision beside a torch of another build."""

import subprocess
import sys
from pathlib import Path

import pytest

from timesformer import torchvision_import
from timesformer.errors import UserError
from timesformer.torchvision_import import import_package

BROKEN = """
import torch
if not any(s.name == "torchvision::nms" for s in torch._C._jit_get_all_schemas()):
    from . import ops
    raise RuntimeError("operator torchvision::nms does not exist")
from . import ops
ops.loads += 1
"""


def in_a_fresh_process(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    root = Path(torchvision_import.__file__).parents[1]
    start = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(root)!r}]\n"
    return subprocess.run([sys.executable, "-c", start + script], capture_output=True, text=True, check=False)


def test_a_torchvision_of_another_build_is_imported_with_its_operators_declared(tmp_path: Path) -> None:
    """A package of that name which fails as the real one does; whether the real one is installed does not matter."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(BROKEN)
    (package / "ops.py").write_text("loads = 0\n")
    done = in_a_fresh_process(
        "from timesformer.torchvision_import import repair_torchvision\n"
        "repair_torchvision(); repair_torchvision()\n"
        "import torchvision, torch\n"
        "print(torchvision.__file__, torchvision.ops.loads, torch.ops.torchvision.nms.default._schema)\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    file, loads, schema = done.stdout.split(" ", 2)
    assert Path(file) == package / "__init__.py"
    assert loads == "1"  # what the failed attempt left behind was not used again
    assert schema.startswith("torchvision::nms(Tensor dets, Tensor scores, float iou_threshold)")


def test_another_failure_of_torchvision_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('the disk is full')\n")
    done = in_a_fresh_process(
        "from timesformer.torchvision_import import repair_torchvision; repair_torchvision()", tmp_path
    )
    assert "RuntimeError: the disk is full" in done.stderr


@pytest.mark.parametrize("name", ["torchvision.models.video", "timm", "transformers.models.timesformer"])
def test_what_imports_torchvision_is_imported(name: str) -> None:
    try:
        module = import_package(name, "this test")
    except UserError as error:
        pytest.skip(str(error))
    assert module.__name__ == name


def test_a_package_that_is_not_installed_is_named_with_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("timm", "timm.optim"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"SOLVER.LAYER_DECAY 0.5 needs the package timm.*pip install timm"):
        import_package("timm.optim", "SOLVER.LAYER_DECAY 0.5")
