"""Studies: tables and figures of many runs next to published results, each from one command."""
