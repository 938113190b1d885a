"""The benchmark of one GPU: tests, speed, memory and accuracy."""
