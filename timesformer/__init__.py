"""Video action recognition with transformers: TimeSformer and its relatives."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # Imported when it is asked for: whatever imports a part of the package would else import torch and all models.
    if name == "load_model":
        from timesformer.inference.classifier import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
