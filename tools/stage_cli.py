"""The command line of `fit`, `validate`, `test` and `predict`, and the callbacks that every run has."""

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from callbacks.alarms import AlarmCallback
from callbacks.bad_clips import BadClipBudget
from callbacks.checkpointing.run_checkpoint import RunCheckpoint
from callbacks.curves import CurvesMayEnd
from callbacks.export import ExportCallback
from callbacks.inspection.callback import InspectionCallback
from callbacks.prediction_writer import PredictionWriter
from callbacks.progress_lines import ProgressLines
from callbacks.rollouts import RolloutWriter
from callbacks.run_record import RunRecord
from callbacks.verifier_figures import VerifierFigures
from datamodules.clip_datamodule import ClipDataModule
from datamodules.clip_source import ClipSource, DataSource
from datamodules.files.yaml_files import check_yaml, read_yaml_mapping
from lightning_modules.determinism import make_products_reproducible
from lightning_modules.processes import of_node
from lightning_modules.provenance import Mismatch
from tools.command_line import settled

DataSource.register(LightningDataModule)

EVERY_RUN: dict[str, type[Callback]] = {
    "checkpoint": RunCheckpoint,
    "bad_clips": BadClipBudget,
    "export": ExportCallback,
    "predictions": PredictionWriter,
    "verifier_figures": VerifierFigures,
    "inspection": InspectionCallback,
    "rollouts": RolloutWriter,
    "alarms": AlarmCallback,
    "curves": CurvesMayEnd,
    "progress": ProgressLines,
    "run_record": RunRecord,
}
"""Option → callback of every run, e.g. `--inspection.every_n_steps 5`. One of its class, or a subclass, that
`trainer.callbacks` names takes its place."""


_EVALUATED = "lightning_modules.policy.PolicyModule"
"""The model of `validate`, `test` and `predict` where nothing names one."""

_CLASSES = ("model", "model.backbone", "data")
"""Options that take a class, each after the one that it is part of."""


def name_classes_first(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments, preceded by the classes that they, or the files among them, name for model, backbone and data.

    Options and files are read in their order, and what a file says of a class can be read only when the class is known:
    `-c configs/backbone/composed.yaml -c configs/data/dfew.yaml` would end at the first file's `data.init_args.media`.
    Each option stays where it is, too, so that what comes later wins, as everywhere.

    Args:
        command: `fit`, or one that evaluates `_EVALUATED` where nothing names another model.
        arguments: the options of the command.
    """
    classes = {} if command == "fit" else {"model": _EVALUATED}
    for argument, following in pairwise([*arguments, ""]):
        option, equals, value = argument.partition("=")
        if argument.startswith("-c") and argument != "-c":
            option, value = "-c", argument.removeprefix("-c").removeprefix("=")
        elif not equals and not following.startswith("-"):
            value = following
        content = _content(value) if option in ("-c", "--config") else {}
        for name in _CLASSES:
            named = _class_in(content, name)
            if option.replace(".init_args.", ".") in (f"--{name}", f"--{name}.class_path"):
                named = value
            if named:
                classes[name] = named
    return [*(f"--{name}={classes[name]}" for name in _CLASSES if name in classes), *arguments]


def _content(value: str) -> Any:
    """What `-c` is given, a file or YAML itself; of YAML with a fault, and of a pipe, which is read once, the parser
    speaks.
    """
    with suppress(OSError):  # YAML is longer than names of files may be
        if Path(value).exists():
            return read_yaml_mapping(value) if Path(value).is_file() else {}
    with suppress(yaml.YAMLError):
        check_yaml(value)
        return yaml.safe_load(value)
    return {}


def _class_in(content: Any, name: str) -> Any:
    """The class that a configuration names for `model`, say; None where it names none."""
    for key in ".init_args.".join(name.split(".")).split("."):
        content = content.get(key) if isinstance(content, dict) else None
    return content.get("class_path") if isinstance(content, dict) else content


class StageCLI(LightningCLI):
    """Lightning's command line with this project's options, data and callbacks."""

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.add_lightning_class_args(self.model_class, "model", subclass_mode=True)
        parser.add_subclass_arguments(DataSource, "data", fail_untyped=False, required=True)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to go on from (fit) or to load: a file, or the 'last' or 'best' of the run directory. "
            "With 'last', fit starts anew where there is none yet.",
        )
        parser.add_argument(
            "--checkpoint_mismatch",
            type=Mismatch,
            default="error",
            help="What to do with a checkpoint that was trained with another verifier or taxonomy.",
        )
        for option, callback in EVERY_RUN.items():
            parser.add_class_arguments(callback, option)

    def before_instantiate_classes(self) -> None:
        self.config = settled(self.config)
        if self.config.trainer.barebones:
            # What configs/trainer/default.yaml asks for, and Lightning then refuses.
            for option in ("logger", "log_every_n_steps", "num_sanity_val_steps"):
                self.config.trainer[option] = None
        if self.config.trainer.accelerator in ("cuda", "gpu") and not torch.accelerator.is_available():
            raise ValueError(
                f"trainer.accelerator is {self.config.trainer.accelerator}, and torch {torch.__version__} sees no GPU. "
                "Without one: -c trainer/cpu in place of trainer/gpu. `python main.py doctor` says what is here."
            )
        if self.config.trainer.deterministic:
            make_products_reproducible()
        self.parser.refuse_written_secrets(self.config)

    def instantiate_classes(self) -> None:
        """The data first, and read: what is wrong with them is said before a model loads, which can take minutes."""
        with of_node(num_devices(self.config.trainer.devices)):
            self.datamodule = self.parser.instantiate(Namespace(data=self.config.data)).data
            if isinstance(self.datamodule, ClipSource):
                self.datamodule.read_splits()
                self.datamodule = ClipDataModule(self.datamodule)
            rest = self.config.clone()
            rest.pop("data")
            self.config_init = self.parser.instantiate(rest)
        self.model = self.config_init.model
        self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        named = self.config_init.trainer.callbacks or []
        named = list(named) if isinstance(named, Sequence) else [named]
        every_run = {"bad_clips": BadClipBudget} if self.config_init.trainer.barebones else EVERY_RUN
        missing = [
            option for option, own in every_run.items() if not any(isinstance(callback, own) for callback in named)
        ]
        own = [self.config_init[option] for option in missing]
        return super().instantiate_trainer(callbacks=[*named, *own], **kwargs)


def num_devices(devices: Any) -> int:
    """Processes per node that `trainer.devices` asks for; "auto" and -1 are all GPUs, of which there may be none.

    Raises:
        ValueError: it is neither a number, nor a list of numbers, nor "auto".
    """
    if isinstance(devices, str) and devices != "auto":
        if not re.fullmatch(r"-?\d+|\d*(,\d*)+", devices):
            raise ValueError(f"trainer.devices is {devices!r}. Expected a number, several such as 0,2, or auto.")
        devices = devices.split(",") if "," in devices else int(devices)
    if devices in ("auto", -1):
        return max(torch.cuda.device_count(), 1)
    return len(devices) if isinstance(devices, list) else devices
