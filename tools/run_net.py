#!/usr/bin/env python3
"""Trains, validates and tests a model: the same as `timesformer train`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
