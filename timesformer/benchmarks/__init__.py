"""Measurements of this project, and of others beside it: the top floor, which nothing but `tools` imports."""
