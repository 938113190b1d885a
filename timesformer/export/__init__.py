"""Exporting models for other runtimes: files, their check against the original, and int8."""
