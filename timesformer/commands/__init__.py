"""The commands of `timesformer`, which are also the scripts in tools/; a module for each."""
