"""Studies: tables and figures of many runs beside published results, each from one command."""
