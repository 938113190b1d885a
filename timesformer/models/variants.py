"""Sizes that go by a name."""

LIGHT_VARIANTS: dict[str, dict[str, int]] = {
    "gesture": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "small": {"embed_dim": 384, "depth": 9, "num_heads": 6},
    "tiny": {"embed_dim": 192, "depth": 9, "num_heads": 3},
}
"""Width, depth and heads of LightTimeSformer: ViT-B as in the gesture study, and ViT-S and ViT-Ti with fewer blocks."""
