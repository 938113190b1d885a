"""Training and testing of heads on cached features."""
