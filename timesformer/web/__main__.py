"""The script that Streamlit runs for every view of the page."""

import sys

from timesformer.web.page import show

if __name__ == "__main__":
    show(sys.argv[1:])
