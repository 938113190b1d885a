#!/usr/bin/env python3
"""The web page: upload a video and see the model's predictions and attention (docs/web.md).

streamlit run tools/app.py -- --checkpoint best.pyth [--fallback k400.pyth] [--examples FOLDER]
python tools/app.py --checkpoint best.pyth ...
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> int:
    try:
        from streamlit import runtime
    except ImportError:
        print("error: the web page needs Streamlit: pip install -e '.[app]'", file=sys.stderr)
        return 2
    from timesformer.errors import UserError
    from timesformer.web.options import parse

    if runtime.exists():
        from timesformer.web.page import show

        show(sys.argv[1:])
        return 0
    try:
        parse(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "streamlit", "run", os.path.abspath(__file__), "--", *sys.argv[1:]]
    return os.execv(sys.executable, command)


if __name__ == "__main__" and (status := main()):
    sys.exit(status)
