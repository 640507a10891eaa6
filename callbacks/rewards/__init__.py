"""Rewards of stage 3, one per file."""

from callbacks.rewards.accuracy import AccuracyReward, accuracy_score
from callbacks.rewards.base import Reward
from callbacks.rewards.explanation import ExplanationReward
from callbacks.rewards.format import FormatReward, format_score
from callbacks.rewards.grounding import GroundingReward
from callbacks.rewards.judge import JudgeReward
from callbacks.rewards.overlong import OverlongPenalty
from callbacks.rewards.set_f1 import SetF1Reward

__all__ = [
    "AccuracyReward",
    "ExplanationReward",
    "FormatReward",
    "GroundingReward",
    "JudgeReward",
    "OverlongPenalty",
    "Reward",
    "SetF1Reward",
    "accuracy_score",
    "format_score",
]
