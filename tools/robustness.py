#!/usr/bin/env python3
"""Tests a checkpoint under corruptions: the same as `timesformer robustness`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.robustness import main

if __name__ == "__main__":
    sys.exit(main())
