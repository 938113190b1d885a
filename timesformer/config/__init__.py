"""Configuration: the options, how they are read from YAML and the command line, and which values are valid."""

from timesformer.config.check import check
from timesformer.config.defaults import get_cfg
from timesformer.config.load import ConfigError, load_config
from timesformer.config.options import register_option

__all__ = ["ConfigError", "check", "get_cfg", "load_config", "register_option"]
