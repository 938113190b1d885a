#!/usr/bin/env python3
"""Measures models, training and data: the same as `timesformer benchmark`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
