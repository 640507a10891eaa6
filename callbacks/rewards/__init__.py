"""Rewards of stage 3, one per file."""

from callbacks.rewards.accuracy import AccuracyReward, accuracy_score
from callbacks.rewards.base import Reward, sum_rewards
from callbacks.rewards.explanation import ExplanationReward
from callbacks.rewards.format import FormatReward, format_score

__all__ = [
    "AccuracyReward",
    "ExplanationReward",
    "FormatReward",
    "Reward",
    "accuracy_score",
    "format_score",
    "sum_rewards",
]
