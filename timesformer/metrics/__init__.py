"""Metrics of a test, computed from the scores of all classes."""
