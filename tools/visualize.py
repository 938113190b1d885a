#!/usr/bin/env python3
"""Shows where a model looks: the same as `timesformer visualize`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.visualize import main

if __name__ == "__main__":
    sys.exit(main())
