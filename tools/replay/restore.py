"""The model, weights and arithmetic that a run had at a step."""

import logging
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser

from callbacks.checkpointing.files import CheckpointFiles, newest_checkpoint
from datamodules.files.yaml_files import read_yaml_mapping
from lightning_modules.step_record import StepPlace
from lightning_modules.trainable_policy import TrainablePolicyModule


def make_trainer(device: torch.device, precision: str) -> Trainer:
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


def find_weights(place: StepPlace, run: Path) -> Path:
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
