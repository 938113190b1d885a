"""The small model and clips of the web page's tests."""

from tests.web.conftest import checkpoint, clips, no_clips  # noqa: F401
