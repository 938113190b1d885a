"""Sections of the report of a run: each module returns the values of one template."""
