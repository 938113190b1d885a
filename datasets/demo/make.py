"""The same as `python tools/prepare.py demo OUT_DIR ...`."""

import runpy
import sys
from pathlib import Path

sys.argv[1:1] = ["demo"]
runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools/prepare.py"), run_name="__main__")
