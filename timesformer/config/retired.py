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

_CNN = "an option of convolutional networks, which are not part of this project"
_DETECTION = "detection of people in AVA is not part of this project"
_CAFFE2 = "checkpoints of Caffe2 and inflated 2-D networks are not read"
_ATTENTION = "tools/visualize.py draws what a model attends to"
_UNUSED = "the original reads it nowhere, or only for models that it does not ship"

RETIRED: dict[str, str] = {  # a key includes everything below it
    "AVA": _DETECTION,
    "DETECTION": _DETECTION,
    "DEMO": "this command line does not run on a webcam or a video with boxes",
    "BENCHMARK": "speed is measured by tools/benchmark.py, which has options of its own",
    "BN": _CNN,
    "MULTIGRID": _CNN,
    "NONLOCAL": _CNN,
    "RESNET": _CNN,
    "SLOWFAST": _CNN,
    "X3D": _CNN,
    "DATA.DECODING_BACKEND": "PyAV decodes video files",
    "DATA.DEIT_TRANSFORMS": "DATA.AUTO_AUGMENT, COLOR_JITTER and RE_PROB each switch on what they name",
    "DATA.CROP_SIZE": _UNUSED,
    "DATA.TEMPORAL_EXTENT": _UNUSED,
    "DATA.MULTI_LABEL": "a clip has one label",
    "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE": "each loading process decodes in one thread",
    "MODEL.ARCH": "MODEL.MODEL_NAME alone says which model it is",
    "MODEL.DROPCONNECT_RATE": _CNN,
    "MODEL.FC_INIT_STD": _CNN,
    "MODEL.HEAD_ACT": _CNN,
    "MODEL.MULTI_PATHWAY_ARCH": _CNN,
    "MODEL.SINGLE_PATHWAY_ARCH": _CNN,
    "SOLVER.GAMMA": _UNUSED,
    "SOLVER.STEP_SIZE": _UNUSED,
    "SOLVER.WARMUP_FACTOR": _UNUSED,
    "TENSORBOARD.CLASS_NAMES_PATH": "the dataset itself names its classes",
    "TENSORBOARD.MODEL_VIS.ACTIVATIONS": _ATTENTION,
    "TENSORBOARD.MODEL_VIS.COLORMAP": _ATTENTION,
    "TENSORBOARD.MODEL_VIS.GRAD_CAM": _ATTENTION,
    "TENSORBOARD.MODEL_VIS.LAYER_LIST": "TENSORBOARD.MODEL_VIS.MODEL_WEIGHTS is of all layers",
    "TENSORBOARD.PREDICTIONS_PATH": "tools/report.py draws a finished test again from its files",
    "TEST.CHECKPOINT_TYPE": _CAFFE2,
    "TRAIN.CHECKPOINT_TYPE": _CAFFE2,
    "TRAIN.CHECKPOINT_INFLATE": _CAFFE2,
    "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN": "names in a checkpoint are recognised, prefixes included",
}


def retired_by(key: str) -> tuple[str, str] | None:
    """Return the entry of `RETIRED` that covers the dotted `key` (a section or a key) with its reason, or None."""
    parts = key.split(".")
    entries = (".".join(parts[: n + 1]) for n in range(len(parts)))
    return next(((entry, RETIRED[entry]) for entry in entries if entry in RETIRED), None)
