#!/usr/bin/env python3
"""The HTTP service: the same as `timesformer serve`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.serve import main

if __name__ == "__main__":
    sys.exit(main())
