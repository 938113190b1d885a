"""Benchmarks of models, training, data and checkpoints (docs/performance.md)."""
