"""The web page: upload a video, see what a model says about it and where it looks."""
