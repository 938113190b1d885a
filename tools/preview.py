#!/usr/bin/env python3
"""Shows a training before it runs: the same as `timesformer preview`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.preview import main

if __name__ == "__main__":
    sys.exit(main())
