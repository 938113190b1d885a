#!/usr/bin/env python3
"""Predicts the classes of videos: the same as `timesformer predict`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
