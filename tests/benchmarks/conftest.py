"""Clips that are made and read in a moment."""

from pathlib import Path

import pytest

from timesformer.benchmarks.generated_clips import Recipe, make_clip


@pytest.fixture(scope="session")
def tiny_clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A clip of each kind by its name; read only."""
    folder = tmp_path_factory.mktemp("tiny_clips")
    recipes = (
        Recipe("H.264", "gop12.mp4", 60, 96, 72, "libx264", {"g": "12"}),
        Recipe("MPEG-4", "short.avi", 20, 96, 72, "mpeg4"),
        Recipe("JPEG", "frames", 20, 96, 72, "jpeg"),
    )
    return {recipe.title: make_clip(folder, recipe) for recipe in recipes}
