"""Pretrained weights: where they are, how they are stored, and loading them."""
