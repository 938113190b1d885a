"""The options of a run: key, default, what it affects (`options.EFFECTS`), and help.

Keys and defaults are those of facebookresearch/TimeSformer, except for `_new` options and where the help says so.
Its other keys are in `retired.py`.
"""

from functools import partial

from timesformer.config.options import get_cfg as get_cfg
from timesformer.config.options import register_option

_new = register_option
_orig = partial(register_option, new=False)

_OFFICIAL = "DATASET hmdb51 ucf101"
_DOWNLOADED = "DATASET hmdb51 hmdb_simp ucf101"
_FOLDER = "DATASET folder"
_RANDOM = f"{_FOLDER} and DATA.SPLIT_RULE auto random"
_FOLDS = "DATA.SPLIT_RULE folds"
_DRAWN = f"{_RANDOM} or {_FOLDS}"
_MUWIGES = "DATASET muwiges"
_LIBRARY = "MODEL.MODEL_NAME torchvision/?* timm/?* transformers/?*"
_NOT_LIBRARY = "MODEL.MODEL_NAME !torchvision/?* timm/?* transformers/?*"
_NOT_LIGHT = "MODEL.MODEL_NAME !LightTimeSformer"
_VIVIT = "MODEL.MODEL_NAME ViViT"
_VIDEOMAE = "MODEL.MODEL_NAME VideoMAE"
_TUBELETS = "MODEL.MODEL_NAME ViViT VideoMAE"
_NOT_TUBELETS = "MODEL.MODEL_NAME !ViViT VideoMAE"
_TOKEN_HEAD = "MODEL.HEAD attentive temporal"
_CACHED = "FEATURES.ENABLED True"
_DISTILLED = "DISTILL.TEACHER !"
_METHODS = ("interpolate", "reverse", "brightness")

# fmt: off
# ---------------------------------------------------------------- training
_orig("TRAIN.ENABLE", True, "inputs", "Train before testing")
_orig("TRAIN.DATASET", "kinetics", "split", "Name of a dataset to train on (data.md)")
_orig("TRAIN.BATCH_SIZE", 64, "training", "Clips per forward and backward pass, on all GPUs of a node", low=1)
_orig("TRAIN.EVAL_PERIOD", 10, "training", "Epochs between validations", low=1)
_orig("TRAIN.CHECKPOINT_PERIOD", 10, "runtime", "Epochs between checkpoints", low=1)
_new("TRAIN.CHECKPOINT_MINUTES", 0.0, "runtime", "Also save a checkpoint every N minutes; 0: only after epochs", low=0)
_new("TRAIN.KEEP_CHECKPOINTS", 0, "runtime", "Newest epoch checkpoints to keep besides the best one; 0: all", low=0)
_new("TRAIN.EARLY_STOP_PATIENCE", 0, "training", "Stop after this many validations without a new best; 0: never", low=0)
_orig("TRAIN.AUTO_RESUME", True, "runtime", "Resume from the newest checkpoint in OUTPUT_DIR")
_orig("TRAIN.CHECKPOINT_FILE_PATH", "", "start", "Checkpoint to start from: file, URL, zoo:, hf: or timm: name")
_orig("TRAIN.CHECKPOINT_EPOCH_RESET", False, "start", "Start at epoch 0 instead of after the checkpoint's epoch")
_orig("TRAIN.FINETUNE", False, "start", "Load only the weights of the checkpoint: new optimizer, epoch 0")
_new("TRAIN.STRICT_LOADING", False, "start", "Error if tensors of the initial weights are missing or unused")
_new("TRAIN.MIXED_PRECISION", "off", "training evaluation", "Autocast dtype; fp16: GPU only", choices="off bf16 fp16")
_new("TRAIN.TF32", True, "training evaluation", "GPU: float32 matrix products in TF32 (10 bits of mantissa)")
_new("TRAIN.COMPILE", False, "training", "Compile the training step with torch.compile, which takes minutes")

# ---------------------------------------------------------------- testing
_orig("TEST.ENABLE", True, "evaluation", "Test after training, or without training")
_orig("TEST.DATASET", "kinetics", "evaluation", "Name of a dataset to test on")
_orig("TEST.BATCH_SIZE", 8, "rounding", "Clips per forward pass, on all GPUs of a node", low=1)
_orig("TEST.CHECKPOINT_FILE_PATH", "", "inputs", "Checkpoint to test; empty: the best of this run")
_orig("TEST.NUM_ENSEMBLE_VIEWS", 10, "evaluation", "Clips per test video, spaced over its length", low=1)
_orig("TEST.NUM_SPATIAL_CROPS", 3, "evaluation", "1: center crop; 3: along the longer side", choices=(1, 3))
_new("TEST.FRAME_ORDER", "original", "evaluation", "Frames of test clips: shuffled, or all their mean (results.md)",
     choices="original shuffled averaged")
_new("TEST.MEASURE_ORDER", False, "runtime", "Also test with shuffled frames, unless TEST.FRAME_ORDER is set")
_new("TEST.CALIBRATE", True, "runtime", "Fit a temperature for probabilities on validation, and use it in predictions")
_new("TEST.REPORT", True, "runtime", "Write report.html, and its charts to TensorBoard")
_orig("TEST.SAVE_RESULTS_PATH", "", "runtime", "File in OUTPUT_DIR for scores and labels of all videos; empty: none")

# ---------------------------------------------------------------- data
_orig("DATA.PATH_TO_DATA_DIR", "", "inputs", "Folder of the dataset or of its CSV lists")
_new("DATA.SPLITS_DIR", "", "inputs", "Folder of the split files; empty: DATA.PATH_TO_DATA_DIR")
_new("DATA.SPLIT", 1, "split", "Official split; --repeats runs several", choices=(1, 2, 3), read_by=_OFFICIAL)
_new("DATA.VAL_FRACTION", 0.1, "split", "Fraction of the training clips for validation",
     above=0, below=1, read_by=f"DATASET !kinetics ssv2 hmdb_simp muwiges or {_FOLDS}")
_new("DATA.SPLIT_RULE", "auto", "split", "folds: of all clips; the others are for folder; auto: on disk, else random",
     choices="auto files folders random folds")
_new("DATA.SPLIT_SEED", 42, "split", "Seed of a random split or of folds, independent of RNG_SEED", read_by=_DRAWN)
_new("DATA.SPLIT_GROUPS", "", "split", "Regex on CLASS/NAME, or a .csv file: each group stays in one split or fold",
     read_by=_DRAWN)
_new("DATA.NUM_FOLDS", 5, "split", "Folds of a cross-validation, stratified by class", low=2, read_by=_FOLDS)
_new("DATA.FOLD", 1, "split", "The fold to test on, 1 to NUM_FOLDS; the others are for training and validation", low=1,
     read_by=_FOLDS)
_new("DATA.TEST_FRACTION", 0.1, "split", "Fraction of all clips for the test", above=0, below=1, read_by=_RANDOM)
_new("DATA.PROTOCOL", "cross_subject", "split", "Training and test differ in subjects, or subjects and scenes",
     choices="cross_subject cross_scene_subject", read_by=_MUWIGES)
_new("DATA.TEST_SUBJECTS", list(range(36, 51)), "split", "Test subjects; this project's choice", read_by=_MUWIGES)
_new("DATA.VAL_SUBJECTS", list(range(31, 36)), "split", "Training subjects held out for validation", read_by=_MUWIGES)
_new("DATA.TEST_SCENES", "", "split", "Scenes of the test, separated by commas",
     read_by=f"{_MUWIGES} and DATA.PROTOCOL cross_scene_subject")
_new("DATA.DOWNLOAD", False, "inputs", "Download the dataset if it is missing", read_by=_DOWNLOADED)
_new("DATA.DOWNLOAD_URLS", ["", ""], "inputs", "Archives of videos and of lists; empty: the official ones",
     length=2, read_by=_DOWNLOADED)
_orig("DATA.PATH_LABEL_SEPARATOR", " ", "inputs", "Separator of path and label in a CSV list",
      pattern=".+", read_by="DATASET !ssv2 hmdb51 ucf101 muwiges")
_orig("DATA.PATH_PREFIX", "", "inputs", "Prefix of the paths in lists, or tar shards; empty: depends on the dataset",
      read_by="DATASET !hmdb51 ucf101")
_new("DATA.MAX_MISSING_FRACTION", 0.0, "training", "Fraction of the listed clips that may be missing", low=0, high=1)
_new("DATA.BALANCE", "none", "training", "Repeat clips of rare classes, or weight classes in the loss",
     choices="none oversample class_weights")
_new("DATA.ON_UNREADABLE", "continue", "training", "continue: replace in training, error in a test; error: stop",
     choices="continue error")
_new("DATA.MAX_UNREADABLE_FRACTION", 0.01, "training", "Largest fraction of training clips that may be unreadable",
     low=0, high=1)
_new("DATA.DECODE_TIMEOUT", 60.0, "training", "Seconds until a clip counts as unreadable; 0: no limit", low=0)
_new("DATA.DECODE_SHORT_SIDE", 0, "clips", "Decode larger frames at about this short side in pixels; 0: off", low=0)
_orig("DATA.NUM_FRAMES", 8, "model clips", "Frames of a clip", low=1)
_orig("DATA.SAMPLING_RATE", 8, "clips", "Distance in frames between two frames of a clip", low=1)
_orig("DATA.TARGET_FPS", 30.0, "clips", "dense: frame rate for SAMPLING_RATE, and of folders of frames", above=0)
_new("DATA.SAMPLER", "", "clips", "Which frames make a clip (data.md); empty: the dataset's default")
_new("DATA.SAMPLER_WINDOW", "", "clips", "dense, short video: repeat its end (full), or shorten the window (fit)",
     choices=("", "full", "fit"))
_new("DATA.SAMPLER_START", "", "clips", "dense, uniform: start of the clip; empty: random in training, else first",
     choices=("", "first", "center", "random"))
_new("DATA.SAMPLER_ORDERED", True, "clips", "random: frames in time order; False: in the order drawn")
_new("DATA.DRAW_ONCE", False, "training", "Draw frames and crops of a training clip once, instead of in each epoch",
     read_by="FEATURES.ENABLED False")
_new("DATA.TEST_SAMPLER", "", "clips", "Sampler of validation and test; empty: DATA.SAMPLER")
_new("DATA.PRE_SAMPLING.ENABLED", False, "clips", "Stretch videos shorter than NUM_FRAMES x SAMPLING_RATE")
_new("DATA.PRE_SAMPLING.METHODS", [*_METHODS], "clips", "Applied in this order until the video is long enough",
     choices=_METHODS)
_new("DATA.PRE_SAMPLING.BRIGHTNESS_FACTORS", [0.6, 0.8, 1.2, 1.4], "clips", "Gains of the brightness copies", above=0)
_new("DATA.PRE_SAMPLING.ORDER", "before_sampling", "clips", "Stretch the video, or the sampled frames",
     choices="before_sampling after_sampling")
_new("DATA.SPATIAL_MODE", "crop", "clips", "Jitter and crop, or resize the whole frame to a square",
     choices="crop resize")
_orig("DATA.TRAIN_CROP_SIZE", 224, "model", "Side in pixels of a training or validation clip", low=1)
_orig("DATA.TEST_CROP_SIZE", 256, "evaluation", "Side in pixels of a test clip", low=1)
_orig("DATA.TRAIN_JITTER_SCALES", [256, 320], "training", "Range in pixels of the short side before the training crop")
_orig("DATA.INV_UNIFORM_SAMPLE", False, "training", "Sample the inverse of the short side uniformly",
      read_by="DATA.SPATIAL_MODE crop")
_orig("DATA.RANDOM_FLIP", True, "training", "Mirror half of the training clips left to right")
_orig("DATA.AUTO_AUGMENT", "", "training", "Augmentation policy of timm, such as rand-m7-n4-mstd0.5-inc1; empty: none")
_orig("DATA.COLOR_JITTER", 0.0, "training", "Largest change of brightness, contrast, saturation", low=0, high=1)
_new("DATA.LIGHTING_JITTER", 0.0, "training", "Std of the shift along the principal colors; AlexNet: 0.1", low=0)
_orig("DATA.RE_PROB", 0.0, "training", "Probability of random erasing in a training clip", low=0, high=1)
_new("DATA.TRANSFORMS", [], "training", "Registered transforms of training clips, after all others", item_type=str)
_orig("DATA.REVERSE_INPUT_CHANNEL", False, "clips", "BGR clips, which the original's SSv2 models expect")
_orig("DATA.MEAN", [0.45, 0.45, 0.45], "clips", "Mean of each channel, for pixels in [0, 1]", length=3)
_orig("DATA.STD", [0.225, 0.225, 0.225], "clips", "Standard deviation of each channel", length=3, above=0)
_orig("DATA.INPUT_CHANNEL_NUM", [3, 3], "model", "Channels of each pathway; clips are RGB", choices=([3], [3, 3]))
_orig("DATA.ENSEMBLE_METHOD", "sum", "evaluation", "How to aggregate the scores of a video's views", choices="sum max")

_orig("DATA_LOADER.NUM_WORKERS", 8, "runtime", "DataLoader workers of a process; 0: load in the main process", low=0)
_orig("DATA_LOADER.PIN_MEMORY", True, "runtime", "Page-locked batches, for faster copies to a GPU")

_orig("MIXUP.ENABLED", False, "training", "Mix the clips of a training batch in pairs, and their labels")
_orig("MIXUP.ALPHA", 0.8, "training", "Mixup: parameter of the Beta distribution; 0: no mixup", low=0)
_orig("MIXUP.CUTMIX_ALPHA", 1.0, "training", "CutMix: parameter of the Beta distribution; 0: no CutMix", low=0)
_orig("MIXUP.CUTMIX_MINMAX", [], "training", "CutMix: range of the box side as a fraction; empty: from the Beta value")
_orig("MIXUP.PROB", 1.0, "training", "Probability of mixing a batch, pair or clip", low=0, high=1)
_orig("MIXUP.SWITCH_PROB", 0.5, "training", "Probability of CutMix instead of mixup", low=0, high=1)
_orig("MIXUP.MODE", "batch", "training", "Draw the mixing ratio per batch, pair or clip", choices="batch pair elem")

# ---------------------------------------------------------------- model
_orig("MODEL.MODEL_NAME", "vit_base_patch16_224", "model", "Name of a model (models.md); SlowFast in the original")
_new("MODEL.PRETRAINED", False, "start", "Start with the library's weights, downloaded once", read_by=_LIBRARY)
_orig("MODEL.NUM_CLASSES", 400, "model", "Outputs of the head", low=1)
_orig("MODEL.LOSS_FUNC", "cross_entropy", "training", "Training loss", choices="cross_entropy")
_orig("MODEL.DROPOUT_RATE", 0.0, "model", "Dropout before the head (0.5 in the original, but unused)", low=0, below=1)
_new("MODEL.HEAD", "linear", "model", "From features to logits (models.md)",
     choices="linear attentive temporal", read_by="MODEL.MODEL_NAME !torchvision/?*")
_new("MODEL.HEAD_GRID", 1, "model", "The head sees N x N averages of the patches of a frame", low=1,
     read_by=_TOKEN_HEAD)
_new("MODEL.HEAD_WIDTH", 128, "model", "Width of the transformer of a temporal head", low=1,
     read_by="MODEL.HEAD temporal")
_new("MODEL.HEAD_DEPTH", 1, "model", "Layers of the transformer of a temporal head", low=1,
     read_by="MODEL.HEAD temporal")
_new("MODEL.FREEZE", "none", "optimizer", "Train only the head, or the head and the last N blocks",
     pattern=r"none|backbone|all_but_last_[1-9]\d*")
_new("MODEL.UNFROZEN", [], "optimizer", "Parts of names of parameters to train although others are frozen",
     item_type=str)
_new("MODEL.UNFREEZE_EPOCH", 0, "optimizer", "Train everything after N epochs of MODEL.FREEZE; 0: never", low=0,
     read_by="MODEL.FREEZE !none")
_new("MODEL.LORA_RANK", 0, "optimizer", "Train low-rank updates of frozen linear layers and the head; 0: off", low=0,
     read_by="MODEL.FREEZE none")
_new("MODEL.LORA_ALPHA", 16.0, "optimizer", "LoRA: the factor on the updates is this / LORA_RANK", above=0,
     read_by="MODEL.LORA_RANK !0")
_new("MODEL.LORA_LAYERS", "query_value", "optimizer", "LoRA: updated layers, of attention or all linear ones",
     choices="query_value all", read_by="MODEL.LORA_RANK !0")
_new("MODEL.ACT_CHECKPOINT", "none", "rounding", "Recompute activations of all or every Nth block to save memory",
     pattern=r"none|blocks|every_[1-9]\d*", synonyms={"true": "blocks", "false": "none"}, read_by=_NOT_LIBRARY)

_orig("TIMESFORMER.ATTENTION_TYPE", "divided_space_time", "model", "Attention over space and time",
      choices="divided_space_time joint_space_time space_only", read_by=_NOT_TUBELETS)
_orig("TIMESFORMER.PRETRAINED_MODEL", "", "start", "Initial weights, e.g. an image ViT; empty: none",
      read_by=_NOT_LIBRARY)
_new("TIMESFORMER.POS_EMBED_INTERPOLATION", "bicubic", "model", "Resizing; legacy: the original's (nearest)",
     choices="bicubic legacy", read_by="MODEL.MODEL_NAME !VideoMAE")
_new("TIMESFORMER.INIT", "pretrained", "model", "The original's initialization, or one to train from scratch",
     choices="pretrained scratch")
_new("TIMESFORMER.VARIANT", "", "model", "Preset of sizes; empty: gesture",
     choices=("", "gesture", "small", "tiny"), read_by="MODEL.MODEL_NAME LightTimeSformer")
_new("TIMESFORMER.EMBED_DIM", 768, "model", "Width of a token", low=1, read_by=_NOT_LIGHT)
_new("TIMESFORMER.DEPTH", 12, "model", "Number of blocks", low=1, read_by=_NOT_LIGHT)
_new("TIMESFORMER.NUM_HEADS", 12, "model", "Attention heads; divides EMBED_DIM", low=1, read_by=_NOT_LIGHT)
_new("TIMESFORMER.PATCH_SIZE", 16, "model", "Side in pixels of a patch", low=1, read_by=_NOT_TUBELETS)
_new("TIMESFORMER.MLP_RATIO", 4.0, "model", "Hidden width of an MLP, as a multiple of EMBED_DIM", above=0)
_new("TIMESFORMER.DROP_RATE", 0.0, "model", "Dropout after embeddings, projections and MLPs", low=0, below=1)
_new("TIMESFORMER.ATTN_DROP_RATE", 0.0, "model", "Dropout of attention weights", low=0, below=1)
_new("TIMESFORMER.DROP_PATH_RATE", 0.1, "model", "Stochastic depth of the last block, linear from 0", low=0, below=1)

_new("VIVIT.MODEL", 1, "model", "1: joint, 2: factorised encoder, 3: factorised attention",
     choices=(1, 2, 3), read_by=_VIVIT)
_new("VIVIT.TUBELET_SIZE", [2, 16, 16], "model", "Frames, height, width of a tubelet",
     length=3, low=1, read_by=_TUBELETS)
_new("VIVIT.TUBELET_INIT", "central", "model", "How image weights fill a tubelet: its central frame, or all frames",
     choices="central inflate", read_by=_TUBELETS)
_new("VIVIT.TEMPORAL_DEPTH", 4, "model", "Blocks of the temporal encoder", low=1,
     read_by=f"{_VIVIT} and VIVIT.MODEL 2 and MODEL.HEAD linear")

_new("VIDEOMAE.MEAN_POOLING", True, "model", "The head reads the mean token; False: the first token",
     read_by=_VIDEOMAE)
_new("VIDEOMAE.NORM_EPS", 1e-6, "model", "Epsilon of the layer norms of the blocks", above=0, read_by=_VIDEOMAE)

# ---------------------------------------------------------------- cached features
_new("FEATURES.ENABLED", False, "training", "Train heads on cached features of a frozen backbone (frozen_features.md)")
_new("FEATURES.NUM_VIEWS", 2, "training", "Augmented views of a training clip, in turns", low=1, read_by=_CACHED,
     past_defaults=(3,))
_new("FEATURES.SEED", 0, "training", "Seed of the augmented views, the same in all runs", low=0, read_by=_CACHED)
_new("FEATURES.LEARNING_RATES", [3e-4, 1e-3, 3e-3, 1e-2], "training", "Tried instead of SOLVER.BASE_LR; empty: that",
     above=0, read_by=_CACHED)
_new("FEATURES.WEIGHT_DECAYS", [1e-2, 1e-1], "training", "Tried instead of SOLVER.WEIGHT_DECAY; empty: that",
     low=0, read_by=_CACHED)
_new("FEATURES.CACHE_DIR", "", "runtime", "Folder of cached features; empty: features in the folder of downloads")

# ---------------------------------------------------------------- knowledge distillation
_new("DISTILL.TEACHER", "", "training", "Checkpoint whose outputs are learned (distillation.md); empty: none")
_new("DISTILL.WEIGHT", 0.5, "training", "Weight of the teacher's outputs in the loss; labels have the rest",
     low=0, high=1, read_by=_DISTILLED)
_new("DISTILL.TEMPERATURE", 4.0, "training", "Temperature of the probabilities of teacher and student", above=0,
     read_by=_DISTILLED)
_new("DISTILL.FEATURES", [], "optimizer", "Pairs of blocks whose outputs are compared, STUDENT:TEACHER, such as 2:4",
     item_type=str, read_by=_DISTILLED)
_new("DISTILL.FEATURE_WEIGHT", 1.0, "training", "Weight of the difference of these outputs in the loss", above=0,
     read_by=f"{_DISTILLED} and DISTILL.FEATURES ![]")

# ---------------------------------------------------------------- optimization
_orig("SOLVER.BASE_LR", 0.1, "training", "Learning rate after warm-up", above=0)
_orig("SOLVER.BASE_LR_SCALE_NUM_SHARDS", False, "training", "Multiply all learning rates by NUM_SHARDS")
_new("SOLVER.LR_SCALE_BATCH_SIZE", 0, "training", "Scale learning rates by clips per step / this; 0: no scaling", low=0)
_orig("SOLVER.LR_POLICY", "cosine", "training", "Learning rate schedule (training.md)",
      choices="cosine linear onecycle steps_with_relative_lrs")
_orig("SOLVER.COSINE_END_LR", 0.0, "training", "cosine, linear: learning rate at the end", low=0)
_orig("SOLVER.STEPS", [], "training", "steps_with_relative_lrs: first epochs of the steps, the first is 0")
_orig("SOLVER.LRS", [], "training", "steps_with_relative_lrs: factor on BASE_LR of each step", low=0)
_orig("SOLVER.MAX_EPOCH", 300, "training", "Epochs of training", low=1)
_orig("SOLVER.WARMUP_EPOCHS", 0.0, "training", "Epochs of warm-up, such as 2.5; onecycle, 0: 30 %", low=0)
_orig("SOLVER.WARMUP_START_LR", 0.01, "training", "Learning rate at the start of warm-up", low=0)
_orig("SOLVER.OPTIMIZING_METHOD", "sgd", "optimizer", "Optimizer", choices="sgd adam adamw")
_orig("SOLVER.MOMENTUM", 0.9, "training", "sgd: momentum", low=0, below=1)
_orig("SOLVER.DAMPENING", 0.0, "training", "sgd: dampening of momentum", low=0)
_orig("SOLVER.NESTEROV", True, "training", "sgd: Nesterov momentum")
_orig("SOLVER.WEIGHT_DECAY", 1e-4, "training", "L2 penalty (sgd, adam) or decoupled weight decay (adamw)", low=0)
_new("SOLVER.ZERO_WD_1D_PARAM", False, "optimizer", "No weight decay on biases, norms and embeddings")
_new("SOLVER.LAYER_DECAY", 1.0, "optimizer", "Learning rate factor from a layer to the one before it", above=0, high=1)
_new("SOLVER.HEAD_LR_SCALE", 1.0, "optimizer", "Factor on the learning rate of the head", above=0)
_new("SOLVER.TEMPORAL_LR_SCALE", 1.0, "optimizer", "Factor on the learning rate of temporal layers and embeddings",
     above=0)
_new("SOLVER.LABEL_SMOOTHING", 0.0, "training", "Fraction of the target spread over all classes", low=0, below=1)
_new("SOLVER.CLIP_GRAD_L2NORM", 0.0, "training", "Maximum L2 norm of the gradients; 0: no clipping", low=0)

_orig("EMA.ENABLED", False, "training", "Average the weights; validation and the best checkpoint use the average")
_new("EMA.DECAY", 0.9999, "training", "Decay of the average per step; smaller in the first steps", low=0, below=1)

# ---------------------------------------------------------------- the run
# TensorBoard, the confusion matrix and wrong predictions are off in the original; they cost little and show more.
_orig("TENSORBOARD.ENABLE", True, "runtime", "Write TensorBoard curves (False in the original)")
_orig("TENSORBOARD.LOG_DIR", "", "runtime", "Folder of the curves in OUTPUT_DIR; empty: named after the dataset")
_orig("TENSORBOARD.CATEGORIES_PATH", "", "runtime", "JSON {category: [class, ...]}, for a confusion matrix of each")
_new("TENSORBOARD.EMBEDDINGS", 0, "runtime", "Test videos whose features are shown in the projector; 0: none", low=0)
_orig("TENSORBOARD.CONFUSION_MATRIX.ENABLE", True, "runtime", "Draw the confusion matrix (False in the original)")
_orig("TENSORBOARD.HISTOGRAM.ENABLE", False, "runtime", "Draw the predictions for each class")
for _figure in ("CONFUSION_MATRIX", "HISTOGRAM"):
    _orig(f"TENSORBOARD.{_figure}.FIGSIZE", [8, 8], "runtime", "Width, height in 100 pixels", length=2, low=1, high=100)
for _figure in ("CONFUSION_MATRIX", "HISTOGRAM", "WRONG_PRED_VIS"):
    _orig(f"TENSORBOARD.{_figure}.SUBSET_PATH", "", "runtime", "Text file with a class per line; empty: all classes")
_orig("TENSORBOARD.HISTOGRAM.TOPK", 10, "runtime", "Number of most frequent predictions to draw", low=1)
_orig("TENSORBOARD.WRONG_PRED_VIS.ENABLE", True, "runtime", "Show the most confident errors (False in the original)")
_orig("TENSORBOARD.WRONG_PRED_VIS.TAG", "Incorrectly classified videos.", "runtime", "Title of errors", pattern=".+")
_orig("TENSORBOARD.MODEL_VIS.ENABLE", False, "runtime", "Enable INPUT_VIDEO and MODEL_WEIGHTS")
_orig("TENSORBOARD.MODEL_VIS.INPUT_VIDEO", False, "runtime", "Show test clips as the model sees them")
_orig("TENSORBOARD.MODEL_VIS.MODEL_WEIGHTS", False, "runtime", "Histograms of the tested weights")
_orig("TENSORBOARD.MODEL_VIS.TOPK_PREDS", 1, "runtime", "Number of predictions shown with a clip", low=1)

_new("WANDB.ENABLED", False, "runtime", "Track the run with Weights & Biases (training.md)")
_new("MLFLOW.ENABLED", False, "runtime", "Track the run with MLflow (training.md)")

_orig("NUM_GPUS", 1, "runtime", "GPUs of each node; 0: run on the CPU", low=0)
_orig("NUM_SHARDS", 1, "training", "Number of nodes; set by torchrun and srun", low=1)
_orig("SHARD_ID", 0, "runtime", "Index of this node, from 0", low=0)
_orig("DIST_BACKEND", "nccl", "runtime", "Communication between GPUs; CPUs use gloo", choices="nccl gloo")
_new("IMPORTS", [], "runtime", "Modules or .py files that extend the package (docs/extending.md)", item_type=str)
_new("DIST_TIMEOUT", 900.0, "runtime", "Seconds that processes wait for each other before the run fails", above=0)
_orig("OUTPUT_DIR", "./output", "runtime", "Folder of all results (./tmp in the original)", pattern=".+")
_orig("RNG_SEED", 1, "training evaluation", "Seed of all random numbers", low=0)
_orig("LOG_PERIOD", 10, "runtime", "Iterations between log lines", low=1)
_orig("LOG_MODEL_INFO", False, "runtime", "Log parameters and FLOPs of the model before training")
_orig("GLOBAL_BATCH_SIZE", 64, "training", "Clips per optimizer step; gradients are accumulated to reach it", low=1)
