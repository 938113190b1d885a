#!/usr/bin/env python3
"""Runs a study or a sweep: the same as `timesformer reproduce`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.reproduce import main

if __name__ == "__main__":
    sys.exit(main())
