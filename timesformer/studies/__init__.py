"""Studies: tables and figures of many runs, published figures beside our own, each by one command."""
