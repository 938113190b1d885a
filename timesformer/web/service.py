"""The model behind the page, loaded once for all visitors, and what it says about a video."""

import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore, Lock

import numpy as np

from timesformer.datasets.clips import SampledClip
from timesformer.datasets.sampling import SAMPLERS
from timesformer.engine.predict import Classifier, load_model
from timesformer.errors import UserError
from timesformer.visualization.attention import attention_of, overlay
from timesformer.web.options import Options
from timesformer.web.reading import Footage, prepare_processes, read_clips
from timesformer.web.uploads import Limits

logger = logging.getLogger(__name__)

LOW_CONFIDENCE = 0.5
"""Below this probability of its first class a model is more likely wrong than right, if it knows itself well."""

MOST_VIEWS = 10
