"""Importing torchvision with a torch of another build."""

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
SCRIPT = """
import sys; sys.path[:0] = sys.argv[1:]
from timesformer.torchvision_import import repair_torchvision
repair_torchvision(); repair_torchvision()
import torchvision, torch
print(torchvision.__file__, torchvision.ops.loads, torch.ops.torchvision.nms.default._schema)
"""


@pytest.mark.slow
def test_missing_operators_are_declared(tmp_path: Path) -> None:
    """With a package that fails as torchvision does."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(BROKEN)
    (package / "ops.py").write_text("loads = 0\n")
    root = Path(torchvision_import.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path, root], capture_output=True, text=True, check=True)
    file, loads, schema = done.stdout.split(" ", 2)
    assert Path(file) == package / "__init__.py"
    assert loads == "1"  # nothing of the failed import was used again
    assert schema.startswith("torchvision::nms(Tensor dets, Tensor scores, float iou_threshold)")


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("timm", "timm.optim"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"SOLVER\.LAYER_DECAY 0\.5.*timm"):
        import_package("timm.optim", "SOLVER.LAYER_DECAY 0.5")
