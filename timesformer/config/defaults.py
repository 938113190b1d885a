"""Every option of a run, with its default and one comment each.

Names and defaults are those of facebookresearch/TimeSformer; where a default differs, the comment says why, and
"(new)" marks an option that codebase does not have. What it has and this project does not read: see `retired.py`.
"""

from fvcore.common.config import CfgNode

_C = CfgNode()

# ---------------------------------------------------------------- training
_C.TRAIN = CfgNode()
_C.TRAIN.ENABLE = True  # train before testing
_C.TRAIN.DATASET = "kinetics"  # or ssv2, hmdb51, ucf101, hmdb_simp, muwiges, folder (docs/data.md)
_C.TRAIN.BATCH_SIZE = 64  # clips per forward and backward pass, on all GPUs of a machine together
_C.TRAIN.EVAL_PERIOD = 10  # validate every so many epochs
_C.TRAIN.CHECKPOINT_PERIOD = 10  # keep a checkpoint every so many epochs
_C.TRAIN.CHECKPOINT_MINUTES = 0.0  # (new) and every so many minutes, amid an epoch too; 0: at the ends of epochs alone
_C.TRAIN.KEEP_CHECKPOINTS = 0  # (new) checkpoints of so many epochs, the newest, are kept beside the best; 0: all
_C.TRAIN.EARLY_STOP_PATIENCE = 0  # (new) stop after so many validations that are no better than the best; 0: never
_C.TRAIN.AUTO_RESUME = True  # go on from the newest checkpoint in OUTPUT_DIR, if there is one
_C.TRAIN.CHECKPOINT_FILE_PATH = ""  # checkpoint to start from when there is none to resume: file, URL, zoo:<name>, ...
_C.TRAIN.CHECKPOINT_EPOCH_RESET = False  # start that checkpoint at epoch 0 instead of going on after its own
_C.TRAIN.FINETUNE = False  # take only the weights of that checkpoint: fresh optimizer, epoch 0
_C.TRAIN.STRICT_LOADING = False  # (new) refuse weights to start from that leave anything new or unused, a head too
_C.TRAIN.MIXED_PRECISION = "off"  # (new) off: float32; bf16, fp16 (GPU): forward pass under autocast to it
_C.TRAIN.TF32 = True  # (new) GPU: float32 matrix products in TF32: faster, with 10 bits of mantissa
_C.TRAIN.COMPILE = False  # (new) compile the training step by torch.compile, which takes minutes at the start
_C.TRAIN.ACTIVATION_CHECKPOINT = "none"  # (new) blocks, or every_N block: less memory, its forward pass done twice

# ---------------------------------------------------------------- testing
_C.TEST = CfgNode()
_C.TEST.ENABLE = True  # test after training, or alone
_C.TEST.DATASET = "kinetics"  # as TRAIN.DATASET, for the test split
_C.TEST.BATCH_SIZE = 8  # clips per forward pass, on all GPUs of a machine together
_C.TEST.CHECKPOINT_FILE_PATH = ""  # checkpoint to test (file, URL, zoo:<name>, ...); empty: the best of this run
_C.TEST.NUM_ENSEMBLE_VIEWS = 10  # clips taken along the time of each video
_C.TEST.NUM_SPATIAL_CROPS = 3  # crops of each clip: 1 (centre) or 3 (along the longer side)
_C.TEST.REPORT = True  # (new) then write report.html, and its pictures for TensorBoard
_C.TEST.SAVE_RESULTS_PATH = ""  # file under OUTPUT_DIR for the scores and labels of all videos; empty: none

# ---------------------------------------------------------------- data
_C.DATA = CfgNode()
_C.DATA.PATH_TO_DATA_DIR = ""  # folder of the dataset or of its CSV lists
_C.DATA.SPLITS_DIR = ""  # (new) folder of the split files when they are not in PATH_TO_DATA_DIR
_C.DATA.SPLIT = 1  # (new) hmdb51, ucf101: which of the three official splits; run_net.py --splits 1 2 3 runs them all
_C.DATA.VAL_SHARE = 0.1  # (new) hmdb51, ucf101, folder: share of the training clips held out for validation, 0 to 1
_C.DATA.SPLIT_RULE = "auto"  # (new) folder: files, folders or random; auto: the first of these that is there
_C.DATA.SPLIT_SEED = 42  # (new) folder, random: seed of the split; RNG_SEED has no part in it
_C.DATA.SPLIT_GROUPS = ""  # (new) folder, random: pattern in <class>/<name>; what it finds names a group kept whole
_C.DATA.TEST_SHARE = 0.1  # (new) folder, random: share of all clips for test, 0 to 1
_C.DATA.PROTOCOL = "cross_subject"  # (new) muwiges: or cross_scene_subject
_C.DATA.TEST_SUBJECTS = list(range(36, 51))  # (new) muwiges: subjects whose clips are the test; this list is a choice
_C.DATA.VAL_SUBJECTS = list(range(31, 36))  # (new) muwiges: subjects held out of training for validation
_C.DATA.TEST_SCENES = ""  # (new) muwiges, cross_scene_subject: scenes of test clips alone, joined by commas
_C.DATA.DOWNLOAD = False  # (new) hmdb51, ucf101: fetch and unpack the dataset if it is not in PATH_TO_DATA_DIR
_C.DATA.DOWNLOAD_URLS = ["", ""]  # (new) addresses of its archives of videos and of lists; empty: the makers' own
_C.DATA.PATH_LABEL_SEPARATOR = " "  # between path and label in a line of a CSV list
_C.DATA.PATH_PREFIX = ""  # folder put before the paths of a list; empty: the working directory, or PATH_TO_DATA_DIR
_C.DATA.MAX_MISSING = 0.0  # (new) share of the clips listed, 0 to 1, that may be absent on disk and are left out
_C.DATA.BALANCE = "none"  # (new) of classes in training: none, oversample (all as often), class_weights (in the loss)
_C.DATA.ON_UNREADABLE = "continue"  # (new) replace a clip in training, else count it as a miss; error: stop
_C.DATA.MAX_UNREADABLE = 0.01  # (new) share of training clips, 0 to 1, that may be unreadable before the run stops
_C.DATA.DECODE_TIMEOUT = 60.0  # (new) seconds after which a clip that is still being decoded is unreadable; 0: never
_C.DATA.DECODING_BACKEND = "pyav"  # library that decodes video files; older values (auto, torchcodec) mean pyav
_C.DATA.DECODE_SHORT_SIDE = 0  # (new) larger frames are decoded down to about this short side in pixels; 0: as they are
_C.DATA.NUM_FRAMES = 8  # frames of a clip
_C.DATA.SAMPLING_RATE = 8  # distance in frames between two frames of a clip
_C.DATA.TARGET_FPS = 30.0  # dense: frames per second that SAMPLING_RATE refers to, and those of folders of frames
_C.DATA.SAMPLER = ""  # (new) dense, uniform, equidistant, random, segment or a registered one; empty: the dataset's own
_C.DATA.SAMPLER_WINDOW = ""  # (new) dense, short video: full repeats the last frame, fit shortens; empty: by dataset
_C.DATA.SAMPLER_START = ""  # (new) first, center or random, for dense, uniform; empty: random in training, else first
_C.DATA.SAMPLER_ORDERED = True  # (new) random sampler: frames in time order; False: in the order drawn
_C.DATA.TEST_SAMPLER = ""  # (new) sampler of validation and test; empty: DATA.SAMPLER
_C.DATA.PRE_SAMPLING = CfgNode()  # (new) stretching of clips shorter than NUM_FRAMES x SAMPLING_RATE
_C.DATA.PRE_SAMPLING.ENABLED = False  # stretch short clips
_C.DATA.PRE_SAMPLING.METHODS = ["interpolate", "reverse", "brightness"]  # applied in this order until long enough
_C.DATA.PRE_SAMPLING.BRIGHTNESS_FACTORS = [0.6, 0.8, 1.2, 1.4]  # gains of the brightness copies
_C.DATA.PRE_SAMPLING.ORDER = "before_sampling"  # or after_sampling: sample first, stretch the sampled frames
_C.DATA.SPATIAL_MODE = "crop"  # (new) crop: jitter and crop; resize: the whole frame to the crop size, squeezed
_C.DATA.TRAIN_CROP_SIZE = 224  # side in pixels of a training and validation clip
_C.DATA.TEST_CROP_SIZE = 256  # side in pixels of a test clip
_C.DATA.TRAIN_JITTER_SCALES = [256, 320]  # smallest and largest short side in pixels before the training crop
_C.DATA.INV_UNIFORM_SAMPLE = False  # draw the inverse of that short side evenly, so that small ones are more frequent
_C.DATA.RANDOM_FLIP = True  # mirror half of the training clips left to right
_C.DATA.AUTO_AUGMENT = ""  # training clips: policy of timm's, such as rand-m7-n4-mstd0.5-inc1; empty: none
_C.DATA.COLOR_JITTER = 0.0  # training clips: largest change of brightness, contrast and saturation, 0 to 1
_C.DATA.LIGHTING_JITTER = 0.0  # (new) training clips: std of the shift along the principal colours; AlexNet's is 0.1
_C.DATA.RE_PROB = 0.0  # training clips: share, 0 to 1, in which a rectangle is filled with noise (random erasing)
_C.DATA.TRANSFORMS = []  # (new) training clips: registered transforms, applied in this order after all others
_C.DATA.REVERSE_INPUT_CHANNEL = False  # BGR clips, as the original's models of ssv2 see them; RGB otherwise
_C.DATA.MEAN = [0.45, 0.45, 0.45]  # subtracted from each channel, of values 0 to 1
_C.DATA.STD = [0.225, 0.225, 0.225]  # then divides each channel
_C.DATA.INPUT_CHANNEL_NUM = [3, 3]  # channels of each pathway; there is one pathway here, so [3] says the same
_C.DATA.ENSEMBLE_METHOD = "sum"  # joining the scores of the views of a video: sum or max

_C.DATA_LOADER = CfgNode()
_C.DATA_LOADER.NUM_WORKERS = 8  # loading processes; 0: load in the main process
_C.DATA_LOADER.PIN_MEMORY = True  # page-locked batches, for faster copies to a GPU

_C.MIXUP = CfgNode()  # mixing the clips of a training batch in pairs, and their labels with them
_C.MIXUP.ENABLED = False  # mix
_C.MIXUP.ALPHA = 0.8  # mixup (a clip fades over the other): both parameters of the Beta distribution; 0: no mixup
_C.MIXUP.CUTMIX_ALPHA = 1.0  # CutMix (a rectangle is of the other): the same for its area; 0: no CutMix
_C.MIXUP.CUTMIX_MINMAX = []  # [smallest, largest] side of that rectangle, shares of the frame's; empty: by the area
_C.MIXUP.PROB = 1.0  # share of batches (pairs, clips: see MODE) that are mixed, 0 to 1
_C.MIXUP.SWITCH_PROB = 0.5  # share of those that get CutMix, 0 to 1, where mixup is possible too
_C.MIXUP.MODE = "batch"  # drawn for each batch, pair or elem (clip)

# ---------------------------------------------------------------- model
_C.MODEL = CfgNode()
_C.MODEL.MODEL_NAME = "vit_base_patch16_224"  # or torchvision/<name>, timm/<name>; the original's SlowFast is not here
_C.MODEL.PRETRAINED = False  # (new) torchvision/ and timm/ models: begin with the library's weights, downloaded once
_C.MODEL.NUM_CLASSES = 400  # outputs of the head
_C.MODEL.LOSS_FUNC = "cross_entropy"  # training loss
_C.MODEL.DROPOUT_RATE = 0.0  # dropout before the head; the original's 0.5 reached no layer
_C.MODEL.FREEZE = "none"  # (new) what is not trained: none, backbone (all but the head) or all_but_last_N (blocks)

_C.TIMESFORMER = CfgNode()  # the transformer; of ViViT too, but for ATTENTION_TYPE, VARIANT and PATCH_SIZE
_C.TIMESFORMER.ATTENTION_TYPE = "divided_space_time"  # or joint_space_time, space_only
_C.TIMESFORMER.PRETRAINED_MODEL = ""  # weights to start from, e.g. an image ViT; empty: none
_C.TIMESFORMER.POS_EMBED_INTERPOLATION = "bicubic"  # (new) resizing of embeddings; legacy: the original's nearest
_C.TIMESFORMER.INIT = "pretrained"  # (new) the original's initialisation; scratch: for training without weights
_C.TIMESFORMER.VARIANT = ""  # (new) preset of LightTimeSformer: gesture, small or tiny; empty: gesture
_C.TIMESFORMER.EMBED_DIM = 768  # (new) width of a token; LightTimeSformer has this and the next two from VARIANT
_C.TIMESFORMER.DEPTH = 12  # (new) blocks
_C.TIMESFORMER.NUM_HEADS = 12  # (new) heads of an attention; divides EMBED_DIM
_C.TIMESFORMER.PATCH_SIZE = 16  # (new) side in pixels of a patch
_C.TIMESFORMER.MLP_RATIO = 4.0  # (new) hidden width of an MLP, in EMBED_DIMs
_C.TIMESFORMER.DROP_RATE = 0.0  # (new) dropout after embeddings, projections and MLPs
_C.TIMESFORMER.ATTN_DROP_RATE = 0.0  # (new) dropout of attention weights
_C.TIMESFORMER.DROP_PATH_RATE = 0.1  # (new) stochastic depth of the last block, growing linearly from 0 at the first

_C.VIVIT = CfgNode()  # (new) what ViViT has beside the options of TIMESFORMER
_C.VIVIT.MODEL = 1  # number in the paper: 1 joint attention, 2 factorised encoder, 3 factorised self-attention
_C.VIVIT.TUBELET_SIZE = [2, 16, 16]  # frames, height and width in pixels of a tubelet
_C.VIVIT.TUBELET_INIT = "central"  # tubelets from an image model's patches: the central frame, or inflate: all alike
_C.VIVIT.TEMPORAL_DEPTH = 4  # model 2: blocks of the second encoder, over time

# ---------------------------------------------------------------- optimisation
_C.SOLVER = CfgNode()
_C.SOLVER.BASE_LR = 0.1  # learning rate after warm-up
_C.SOLVER.BASE_LR_SCALE_NUM_SHARDS = False  # multiply all learning rates by NUM_SHARDS
_C.SOLVER.LR_SCALE_BATCH_SIZE = 0  # (new) clips per step that the learning rates are meant for, to scale them; 0: off
_C.SOLVER.LR_POLICY = "cosine"  # or steps_with_relative_lrs
_C.SOLVER.COSINE_END_LR = 0.0  # cosine: learning rate at the end
_C.SOLVER.STEPS = []  # steps_with_relative_lrs: epochs at which a step starts, the first at 0
_C.SOLVER.LRS = []  # steps_with_relative_lrs: factor on BASE_LR of each step
_C.SOLVER.MAX_EPOCH = 300  # epochs of training
_C.SOLVER.WARMUP_EPOCHS = 0.0  # epochs of linear warm-up, fractions allowed
_C.SOLVER.WARMUP_START_LR = 0.01  # learning rate at the start of warm-up
_C.SOLVER.OPTIMIZING_METHOD = "sgd"  # sgd, adam or adamw
_C.SOLVER.MOMENTUM = 0.9  # sgd
_C.SOLVER.DAMPENING = 0.0  # sgd: dampening of momentum
_C.SOLVER.NESTEROV = True  # sgd: Nesterov momentum
_C.SOLVER.WEIGHT_DECAY = 1e-4  # L2 penalty (sgd, adam) or decoupled decay (adamw)
_C.SOLVER.ZERO_WEIGHT_DECAY_1D = False  # (new) no decay on biases, norms and embeddings
_C.SOLVER.LAYER_DECAY = 1.0  # (new) factor on the learning rate from each layer to the one before it; 1: all alike
_C.SOLVER.LABEL_SMOOTHING = 0.0  # (new) share of the target, 0 to 1, spread evenly over all classes; training only
_C.SOLVER.CLIP_GRADIENT = 0.0  # (new) largest norm of the gradient of a step; 0: no clipping

_C.EMA = CfgNode()  # exponential moving average of the weights
_C.EMA.ENABLED = False  # average them; then the average is validated, and is what the best checkpoint holds
_C.EMA.DECAY = 0.9999  # (new) share of the average that stays in a step; in the first steps less

# ---------------------------------------------------------------- the run
_C.TENSORBOARD = CfgNode()
_C.TENSORBOARD.ENABLE = True  # write curves; False in the original, but a run without them cannot be looked at later
_C.TENSORBOARD.LOG_DIR = ""  # folder of the curves under OUTPUT_DIR; empty: one named after the dataset
_C.TENSORBOARD.CATEGORIES_PATH = ""  # JSON, {category: [class, ...]}, for a confusion matrix of each; empty: none
_C.TENSORBOARD.EMBEDDINGS = 0  # (new) test videos whose features go into the projector, of all classes; 0: none
_C.TENSORBOARD.CONFUSION_MATRIX = CfgNode()
_C.TENSORBOARD.CONFUSION_MATRIX.ENABLE = True  # draw it after the test; False in the original, but it costs no second
_C.TENSORBOARD.CONFUSION_MATRIX.FIGSIZE = [8, 8]  # width and height in inches of 100 pixels
_C.TENSORBOARD.CONFUSION_MATRIX.SUBSET_PATH = ""  # text, a name of a class a line: only these; empty: all classes
_C.TENSORBOARD.HISTOGRAM = CfgNode()
_C.TENSORBOARD.HISTOGRAM.ENABLE = False  # draw, for each class, what its test videos were taken for
_C.TENSORBOARD.HISTOGRAM.FIGSIZE = [8, 8]  # width and height in inches of 100 pixels
_C.TENSORBOARD.HISTOGRAM.SUBSET_PATH = ""  # text, a name of a class a line: only these; empty: all classes
_C.TENSORBOARD.HISTOGRAM.TOPK = 10  # the most frequent predictions that are drawn
_C.TENSORBOARD.WRONG_PRED_VIS = CfgNode()
_C.TENSORBOARD.WRONG_PRED_VIS.ENABLE = True  # the surest mistakes of the test, animated; False in the original
_C.TENSORBOARD.WRONG_PRED_VIS.TAG = "Incorrectly classified videos."  # what they are listed under
_C.TENSORBOARD.WRONG_PRED_VIS.SUBSET_PATH = ""  # text, a name of a class a line: only these; empty: all classes
_C.TENSORBOARD.MODEL_VIS = CfgNode()
_C.TENSORBOARD.MODEL_VIS.ENABLE = False  # show what the next two ask for
_C.TENSORBOARD.MODEL_VIS.INPUT_VIDEO = False  # clips of the test as the model sees them, animated
_C.TENSORBOARD.MODEL_VIS.MODEL_WEIGHTS = False  # histograms of the weights that were tested
_C.TENSORBOARD.MODEL_VIS.TOPK_PREDS = 1  # predictions named with a clip

_C.NUM_GPUS = 1  # GPUs of each machine; 0: run on the CPU
_C.NUM_SHARDS = 1  # machines; torchrun and srun know their number
_C.SHARD_ID = 0  # number of this machine, from 0
_C.DIST_BACKEND = "nccl"  # how GPUs exchange gradients: nccl or gloo; between CPUs it is always gloo
_C.DIST_TIMEOUT = 900.0  # (new) seconds that processes wait for one another before the run fails
_C.OUTPUT_DIR = "./output"  # folder of all results; not the original's "./tmp", a name that invites deletion
_C.RNG_SEED = 1  # the one seed of everything random
_C.LOG_PERIOD = 10  # log every so many iterations
_C.LOG_MODEL_INFO = False  # log parameters and FLOPs of the model before training; False as in the original
_C.GLOBAL_BATCH_SIZE = 64  # clips per optimizer step: gradients are accumulated when it is above all machines' batches


def get_cfg() -> CfgNode:
    """Return a fresh copy of the defaults, free to be changed."""
    return _C.clone()
