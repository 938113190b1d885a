"""From the frames of a video to a clip."""
