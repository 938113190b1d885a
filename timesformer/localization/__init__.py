"""Temporal action localization: when which action happens in a long video."""
