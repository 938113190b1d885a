#!/usr/bin/env python3
"""The web page: the same as `timesformer app`. Streamlit runs this script for every view of the page.

streamlit run tools/app.py -- --checkpoint best.pyth [--fallback k400.pyth] [--examples FOLDER]
python tools/app.py --checkpoint best.pyth ...
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.app import main

if __name__ == "__main__" and (status := main(script=Path(__file__).resolve())):
    sys.exit(status)
