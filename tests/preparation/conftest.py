"""The clips that the tests of the datasets make."""

from tests.datasets.conftest import cfg, hmdb_root, make_frames, make_video  # noqa: F401
