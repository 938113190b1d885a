"""How long a test waits for something that must happen."""

PATIENCE = 600.0
"""Seconds after which a test is taken to hang. No other result may depend on it: the machine may be busy."""
