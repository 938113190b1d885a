"""Processes and threads that load clips."""
