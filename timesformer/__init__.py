"""Video action recognition with transformers: TimeSformer and its relatives."""

__version__ = "0.1.0"
