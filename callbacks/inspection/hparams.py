"""TensorBoard's HPARAMS tab: a run's main settings beside what it reached."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter

from callbacks.rl import RLCallback
from lightning_modules.verifier import RATES as VERIFIER_RATES

_RATES = ("fcr", "war", "uar", "eea", "epc", *VERIFIER_RATES, "calibration_error", "loss")
METRICS: tuple[str, ...] = (*(f"{part}/{name}" for part in ("val", "test") for name in _RATES), "reward/total")
"""The columns for what a run reached: tags of scalars, of which TensorBoard takes the last value."""

_MODULE_NUMBERS = (
    "learning_rate", "weight_decay", "warmup_ratio", "group_size", "num_updates", "max_resamples",
    "gradient_clip_norm",
)  # fmt: skip
_LOSS_NUMBERS = ("beta", "epsilon_low", "epsilon_high")
_MODULE_WORDS = ("schedule", "uniform_groups", "normalise_std", "mask_truncated")
_LOSS_WORDS = ("denominator", "importance")
NUMBERS: tuple[str, ...] = (
    "seed", "max_steps", "max_epochs", "num_processes", "batch_size", *_MODULE_NUMBERS, *_LOSS_NUMBERS,
    "rollout_temperature", "rollout_max_new_tokens", "evaluation_temperature", "evaluation_max_new_tokens",
)  # fmt: skip
"""Settings that are numbers."""
WORDS: tuple[str, ...] = (
    "module", "backbone", "taxonomy", "trainable", "precision", "rewards", *_MODULE_WORDS, *_LOSS_WORDS
)  # fmt: skip
"""Settings that are words."""
_FIRST = ("module", "rewards", "learning_rate", "group_size", "beta")
"""Those that the table shows at first, before the others, which are in the order of the alphabet."""


def taxonomy_name(name: str) -> str:
    """A taxonomy's name for others to read: of a file's path its last two names, behind an ellipsis."""
    return "/".join(("…", *Path(name).parts[-2:])) if "/" in name else name


def hyperparameters(trainer: Trainer, module: LightningModule) -> dict[str, float | str]:
    """A run's main settings, flat: those of `NUMBERS` and `WORDS` that it has. No paths, and nothing secret.

    Args:
        trainer: attached to the module.
        module: of any stage.
    """
    loss = getattr(getattr(module, "loss", None), "keywords", {})
    values: dict[str, Any] = {
        "seed": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
        "max_steps": trainer.max_steps,
        "max_epochs": trainer.max_epochs,
        "num_processes": trainer.world_size,
        "batch_size": getattr(getattr(trainer, "datamodule", None), "batch_size", None),
        "module": type(module).__name__,
        "precision": str(trainer.precision),
    }
    values |= {name: getattr(module, name, None) for name in (*_MODULE_NUMBERS, *_MODULE_WORDS)}
    values |= {name: loss.get(name) for name in (*_LOSS_NUMBERS, *_LOSS_WORDS)}
    if hasattr(module, "backbone"):
        values |= {"backbone": type(module.backbone).__name__, "taxonomy": taxonomy_name(module.taxonomy.name)}
    values["trainable"] = ", ".join(getattr(module, "trainable", ())) or None
    for phase in ("rollout", "evaluation"):
        sampling = getattr(module, "rollout_sampling" if phase == "rollout" else phase, None)
        if sampling is not None:
            values[f"{phase}_temperature"] = sampling.temperature
            values[f"{phase}_max_new_tokens"] = sampling.max_new_tokens
    rewards = [
        reward for callback in trainer.callbacks if isinstance(callback, RLCallback) for reward in callback.rewards
    ]
    values["rewards"] = " + ".join(map(str, rewards)) or None
    chosen = {name: values.get(name) for name in (*WORDS, *NUMBERS)}
    return {name: str(value) if name in WORDS else float(value) for name, value in chosen.items() if value is not None}


def write_hyperparameters(writer: SummaryWriter, values: Mapping[str, float | str]) -> None:
    """Write a run's row of the HPARAMS tab. The metrics are not written: their scalars are there already.

    TensorBoard takes the columns of all runs from the first one that it finds. Therefore every run declares the same,
    also for settings and metrics that it lacks, where `TensorBoardLogger.log_hyperparams` would declare only its own.

    Args:
        writer: of the run's events.
        values: see `hyperparameters`.
    """
    types = dict.fromkeys(WORDS, api_pb2.DATA_TYPE_STRING) | dict.fromkeys(NUMBERS, api_pb2.DATA_TYPE_FLOAT64)
    columns = api_pb2.Experiment(
        hparam_infos=[api_pb2.HParamInfo(name=name, type=kind, differs=name in _FIRST) for name, kind in types.items()],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in METRICS],
    )
    start = plugin_data_pb2.SessionStartInfo()
    for name, value in values.items():
        setattr(start.hparams[name], "string_value" if isinstance(value, str) else "number_value", value)
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    for tag, field in (
        (metadata.EXPERIMENT_TAG, {"experiment": columns}),
        (metadata.SESSION_START_INFO_TAG, {"session_start_info": start}),
        (metadata.SESSION_END_INFO_TAG, {"session_end_info": end}),
    ):
        content = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**field))
        writer.file_writer.add_summary(
            Summary(value=[Summary.Value(tag=tag, metadata=content, tensor=metadata.NULL_TENSOR)])
        )
