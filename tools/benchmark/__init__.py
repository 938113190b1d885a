"""Benchmarks of models, training, data and checkpoints (docs/performance.md); run by tools/benchmark.py."""
