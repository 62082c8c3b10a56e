"""Evaluation of models on structures, with or without labels."""

from polmd.evaluation.frames import Frame, read_frames
from polmd.evaluation.labels import LABELS, choose_labels
from polmd.evaluation.predictions import Prediction, Settings, predict
from polmd.evaluation.report import Evaluation, evaluate

__all__ = [
    "LABELS",
    "Evaluation",
    "Frame",
    "Prediction",
    "Settings",
    "choose_labels",
    "evaluate",
    "predict",
    "read_frames",
]
