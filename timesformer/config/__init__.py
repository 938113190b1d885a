"""Configuration: the options, how they are read from YAML and the command line, and which values make sense."""

from timesformer.config.check import check
from timesformer.config.defaults import get_cfg
from timesformer.config.load import ConfigError, load_config

__all__ = ["ConfigError", "check", "get_cfg", "load_config"]
