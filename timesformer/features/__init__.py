"""Features of frozen backbones, computed once per clip and view and cached on disk."""
