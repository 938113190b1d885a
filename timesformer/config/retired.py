"""Earlier names of options, and keys of facebookresearch/TimeSformer that have no effect in this project."""

RENAMED = {
    "DATA.MAX_MISSING": "DATA.MAX_MISSING_FRACTION",
    "DATA.MAX_UNREADABLE": "DATA.MAX_UNREADABLE_FRACTION",
    "DATA.TEST_SHARE": "DATA.TEST_FRACTION",
    "DATA.VAL_SHARE": "DATA.VAL_FRACTION",
    "SOLVER.CLIP_GRADIENT": "SOLVER.CLIP_GRAD_L2NORM",
    "SOLVER.ZERO_WEIGHT_DECAY_1D": "SOLVER.ZERO_WD_1D_PARAM",
    "TRAIN.ACTIVATION_CHECKPOINT": "MODEL.ACT_CHECKPOINT",
}
"""Options by their earlier names, which YAML files, command lines and checkpoints may still have."""

_REASONS = {
    "detection of people in AVA is not part of this project": "AVA DETECTION",
    "this command line does not run on a webcam or a video with boxes": "DEMO",
    "speed is measured by `timesformer benchmark`, which has options of its own": "BENCHMARK",
    "an option of convolutional networks, which are not part of this project": (
        "BN MULTIGRID NONLOCAL RESNET SLOWFAST X3D MODEL.DROPCONNECT_RATE MODEL.FC_INIT_STD MODEL.HEAD_ACT "
        "MODEL.MULTI_PATHWAY_ARCH MODEL.SINGLE_PATHWAY_ARCH"
    ),
    "PyAV decodes video files": "DATA.DECODING_BACKEND",
    "DATA.AUTO_AUGMENT, COLOR_JITTER and RE_PROB each switch on what they name": "DATA.DEIT_TRANSFORMS",
    "the original reads it nowhere, or only for models that it does not ship": (
        "DATA.CROP_SIZE DATA.TEMPORAL_EXTENT SOLVER.GAMMA SOLVER.STEP_SIZE SOLVER.WARMUP_FACTOR"
    ),
    "a clip has one label": "DATA.MULTI_LABEL",
    "each DataLoader worker decodes in one thread": "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE",
    "MODEL.MODEL_NAME alone says which model it is": "MODEL.ARCH",
    "the dataset itself names its classes": "TENSORBOARD.CLASS_NAMES_PATH",
    "`timesformer visualize` draws what a model attends to": (
        "TENSORBOARD.MODEL_VIS.ACTIVATIONS TENSORBOARD.MODEL_VIS.COLORMAP TENSORBOARD.MODEL_VIS.GRAD_CAM"
    ),
    "TENSORBOARD.MODEL_VIS.MODEL_WEIGHTS is of all layers": "TENSORBOARD.MODEL_VIS.LAYER_LIST",
    "`timesformer report` draws a finished test again from its files": "TENSORBOARD.PREDICTIONS_PATH",
    "checkpoints of Caffe2 and inflated 2-D networks are not read": (
        "TEST.CHECKPOINT_TYPE TRAIN.CHECKPOINT_TYPE TRAIN.CHECKPOINT_INFLATE"
    ),
    "names in a checkpoint are recognized, prefixes included": "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN",
}
RETIRED = {key: reason for reason, keys in _REASONS.items() for key in keys.split()}
"""Keys of the original, each with everything below it, by the reason that they have no effect."""


def retired_by(key: str) -> tuple[str, str] | None:
    """Return the entry of `RETIRED` that covers the dotted `key` (a section or a key) with its reason, or None."""
    parts = key.split(".")
    entries = (".".join(parts[: n + 1]) for n in range(len(parts)))
    return next(((entry, RETIRED[entry]) for entry in entries if entry in RETIRED), None)
