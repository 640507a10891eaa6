"""The tool `python main.py replay`: recompute a step whose loss or gradient was not finite; say where that begins."""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from callbacks.checkpointing.files import CheckpointFiles, newest_checkpoint
from datamodules.files.yaml_files import read_yaml_mapping
from lightning_modules.judges.base import find_device
from lightning_modules.step_record import StepPlace, StepRecord
from lightning_modules.trainable_policy import TrainablePolicyModule
from tools.replay.recompute import Part, Recomputation, recompute

CONFIG_FILE = "config.yaml"
_NUM_TEXTS = 3  # completions with a finding that are printed


def replay(file: str, ckpt_path: str | None = None, device: str = "auto") -> Recomputation:
    """Recompute a training step that a run saved because its loss or gradient was not finite.

    Reads the run's config.yaml, two directories above the step's file, as `fit` would, so that its relative paths start
    at the same working directory; needs no corpus. Prints each clip's or completion's share of loss and gradient, and
    what of it first is not finite.

    Args:
        file: the step, `non_finite/step=N.safetensors` of a run directory.
        ckpt_path: checkpoint with the weights before the step; by default those that were saved with it, else the
            newest checkpoint of the run.
        device: where to compute, e.g. `cpu` or `cuda:1`; `auto` is a GPU if there is one.

    Returns:
        What is printed.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the file is no step, or belongs to another model than the run's.
    """
    record, run = StepRecord.read(Path(file)), Path(file).absolute().parents[1]
    module = load_module(run / CONFIG_FILE)
    if record.place.stage != module.stage:
        raise ValueError(f"The step is one of stage {record.place.stage!r}, {run / CONFIG_FILE} of {module.stage!r}.")
    checkpoint = _weights(record.place, run) if ckpt_path is None else Path(ckpt_path)
    weights_step = load_weights(module, checkpoint)
    where = find_device(device)
    trainer = _trainer(where, record.place.precision)
    plugin = trainer.precision_plugin
    plugin.convert_module(module).to(where)
    if module.automatic_optimization:
        module.on_train_start()  # stage 1 trains with dropout
    result = recompute(module, record, plugin)
    _print(record, result, checkpoint, weights_step, str(trainer.precision))
    return result


def _trainer(device: torch.device, precision: str) -> Trainer:
    """A Trainer for its arithmetic alone, which says nothing of the hardware that it finds."""
    is_gpu = device.type == "cuda"
    logging.disable(logging.INFO)
    try:
        return Trainer(
            accelerator="gpu" if is_gpu else device.type,
            devices=[device.index or 0] if is_gpu else 1,
            precision=precision,
            logger=False,
            enable_checkpointing=False,
        )
    finally:
        logging.disable(logging.NOTSET)


def load_module(config: Path) -> TrainablePolicyModule:
    """The model that a run's configuration describes, with its initial weights.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it names no model that is trained by stage 1 or 3.
    """
    if not config.is_file():
        raise FileNotFoundError(f"{config} is missing: a step is replayed in the run directory that it was saved in.")
    parser = LightningArgumentParser(parser_mode="omegaconf+")
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    described = read_yaml_mapping(config)
    if type(seed := described.get("seed_everything")) is int:
        torch.manual_seed(seed)  # for parts that are drawn at random and not trained
    module = parser.instantiate_classes(parser.parse_object({"model": described.get("model")})).model
    if not isinstance(module, TrainablePolicyModule):
        raise ValueError(f"{config} describes a {type(module).__name__}, expected a policy of stage 1 or 3.")
    return module


def load_weights(module: TrainablePolicyModule, checkpoint: Path) -> int:
    """Give a module the trained weights of a checkpoint; returns after how many optimizer steps it was written.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: it is damaged.
        ValueError: it belongs to another model.
    """
    saved = CheckpointFiles().load_checkpoint(checkpoint, lambda storage, _: storage, weights_only=True)
    module.on_load_checkpoint(saved)
    module.load_state_dict(saved["state_dict"])
    return int(saved["global_step"])


def _weights(place: StepPlace, run: Path) -> Path:
    """The run's file with the weights nearest to the step."""
    if place.weights is not None:
        path = (run / place.weights).resolve()
        if not path.is_relative_to(run.resolve()):
            raise ValueError(f"The step names weights outside of its run directory, {place.weights}: give --ckpt_path.")
        return path
    newest = newest_checkpoint(run)
    if newest is None:
        raise FileNotFoundError(f"There is no checkpoint in {run}, and none was saved with the step: give --ckpt_path.")
    return newest


def _print(record: StepRecord, result: Recomputation, checkpoint: Path, weights_step: int, precision: str) -> None:
    place, console = record.place, Console()
    batches = ", ".join(map(str, place.batch_indices))
    of = f", process {place.rank} of {place.num_processes}" if place.num_processes > 1 else ""
    console.print(
        f"Step {place.step} of {place.stage}: epoch {place.epoch}, batch {batches}{of}. Precision {precision}."
    )
    console.print(f"Weights after {weights_step} steps: {checkpoint}", markup=False, soft_wrap=True)
    console.print(_table(result.parts, is_grouped=record.rollout is not None))
    if result.broken_weights:
        names = ", ".join(result.broken_weights[:5]) + (" …" if len(result.broken_weights) > 5 else "")
        console.print(f"Weights that are not finite: {len(result.broken_weights)}, {names}", markup=False)
    for part in [part for part in result.parts if part.findings][:_NUM_TEXTS]:
        console.print(f"{_name(part)}: {part.text!r}", markup=False)
    # Those of stage 3 are shares of one loss; those of stage 1 are each a batch's own.
    losses = [sum(place.losses)] if record.rollout is not None else place.losses
    recorded = ", ".join(f"{loss:.6g}" for loss in losses)
    console.print(
        f"Recorded: loss {recorded}, gradient norm {place.gradient_norm:.6g}. "
        f"Now: loss {result.loss:.6g}, gradient norm {result.gradient_norm:.6g}."
    )
    console.print(_verdict(place, result, weights_step, precision))


def _table(parts: list[Part], is_grouped: bool) -> Table:
    table = Table(title="Shares of the step, each computed alone")
    for name in ("clip", *(["completion"] if is_grouped else []), "tokens", "loss", "gradient norm"):
        table.add_column(name, justify="left" if name == "clip" else "right", overflow="fold")
    table.add_column("not finite, in the order of the computation", overflow="fold")
    for part in parts:
        cells: list[Any] = [escape(part.clip), *([part.completion] if is_grouped else []), part.num_tokens]
        cells += [f"{part.loss:.4g}", f"{part.gradient_norm:.4g}", escape(" → ".join(part.findings)) or "–"]
        table.add_row(*map(str, cells), style="red" if part.findings else None)
    return table


def _name(part: Part) -> str:
    return part.clip if part.completion is None else f"{part.clip}, completion {part.completion}"


def _verdict(place: StepPlace, result: Recomputation, weights_step: int, precision: str) -> str:
    if not result.is_finite:
        first = next((part for part in result.parts if part.findings), None)
        if first is None:
            return "Reproduced, by the sum alone: each part is finite, and together they overflow."
        return f"Reproduced. First: {escape(_name(first))}: {escape(first.findings[0])}."
    reasons = []
    if weights_step != place.step:
        reasons.append(f"the weights are those after {weights_step} steps, not {place.step}")
    if precision != place.precision:
        reasons.append(f"the precision is {precision}, not {place.precision}")
    if place.num_processes > 1:
        reasons.append("it may be another process' clips: replay the other files of the step, too")
    if place.stage == "cold_start":
        reasons.append("dropout, if there is any, is drawn anew for each part")
    return f"Not reproduced: all is finite here. {'; '.join(reasons).capitalize()}{'.' if reasons else ''}"
