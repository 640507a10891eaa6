"""Does the model look and listen? The test set again, with a modality taken away or falsified."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from callbacks.ablation_report import ablation_report, changes, draw, print_report
from callbacks.prediction_writer import gather_rows, prediction_rows
from datamodules.ablation import ABLATIONS, SWAPPED, Ablation, Partners, ablate
from datamodules.batch import ClipBatch
from datamodules.clip_dataset import ClipDataset
from datamodules.files.writing import write_json, write_rows
from lightning_modules.evaluation import Evaluation
from lightning_modules.metrics.predictions import read_predictions
from lightning_modules.policy import PolicyModule

REPORT_FILE = "ablation.json"
CHANGES_FILE = "ablation.jsonl"
FIGURE_FILE = "ablation.png"


_OF_TRANSCRIPTS = ("no_transcript", "swapped_transcript")


class ModalityAblation(Callback):
    """During `test`, evaluates each batch once more in every mode, and reports what changes against the full clips.

    The random numbers are those of the full batch; under greedy decoding, which takes none, every change comes from the
    input. The test's own results do not change. Ablated clips bypass the feature cache.

    Writes to the run directory: `predictions_<mode>.jsonl`, which are files as `predictions.jsonl` is one;
    `ablation.jsonl`, a line per clip and mode; `ablation.json` and `ablation.png`.

    Args:
        modes: what is taken away, in the order of the report; null for everything that the clips have. `full` is always
            there.
        seed: of the clips whose sound or transcript others are given.

    Raises:
        ValueError: no mode beside `full`, an unknown one, or one twice.
    """

    def __init__(self, modes: list[Ablation] | None = None, seed: int = 0) -> None:
        chosen = [mode for mode in (ABLATIONS if modes is None else modes) if mode != "full"]
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(ABLATIONS):
            raise ValueError(f"Got the modes {modes}. Expected different ones of {', '.join(ABLATIONS[1:])}.")
        self.modes: list[Ablation] = chosen
        self.takes_all = modes is None
        self.seed = seed

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, PolicyModule):
            raise ValueError(f"ModalityAblation works with a PolicyModule, got {type(pl_module).__name__}.")
        if pl_module.evaluation.temperature > 0:
            rank_zero_warn(
                f"Completions are sampled at temperature {pl_module.evaluation.temperature}: a part of every change "
                "is chance. Set model.evaluation.temperature to 0 to see what the input changes."
            )
        dataset = getattr(trainer.test_dataloaders, "dataset", None)
        if self.takes_all:
            is_told = _tells_transcripts(dataset)
            self.modes = [mode for mode in ABLATIONS[1:] if is_told or mode not in _OF_TRANSCRIPTS]
        self._rows: dict[Ablation, list[dict[str, Any]]] = {mode: [] for mode in ("full", *self.modes)}
        self._swaps: list[dict[str, Any]] = []
        self._partners = {mode: self._partners_for(mode, dataset) for mode in self.modes if mode in SWAPPED}
        if "no_transcript" in self.modes and not _tells_transcripts(dataset):
            raise ValueError(
                "no_transcript takes away what the model is told is said, and it is told so of no test clip. Set "
                "data.transcript_template, with a corpus that has transcripts, or leave no_transcript out of the modes."
            )

    def _partners_for(self, mode: Ablation, dataset: object) -> Partners:
        if not isinstance(dataset, ClipDataset):
            raise ValueError(
                f"{mode} takes the {SWAPPED[mode]} of other clips of a ClipDataset; the test loader has "
                f"{type(dataset).__name__}. Leave {mode} out of the modes."
            )
        return Partners(dataset, SWAPPED[mode], self.seed)

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._random_state = _random_state(pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(pl_module, PolicyModule), "checked in on_test_start"
        assert isinstance(outputs, Evaluation), "what a policy's test step returns"
        self._rows["full"] += prediction_rows(pl_module, outputs)
        after = _random_state(pl_module.device)
        for mode in self.modes:
            partners = self._draw_partners(batch, mode) if mode in SWAPPED else None
            _set_random_state(pl_module.device, self._random_state)
            # Lightning sets the precision up for the step and not for what follows it.
            with trainer.precision_plugin.test_step_context():
                evaluation = pl_module.evaluate(ablate(batch, mode, partners), with_cache=False)
            self._rows[mode] += prediction_rows(pl_module, evaluation)
        _set_random_state(pl_module.device, after)

    def _draw_partners(self, batch: ClipBatch, mode: Ablation) -> ClipBatch:
        partners = self._partners[mode].of(batch)
        part = SWAPPED[mode]
        self._swaps += [
            {"id": own, "mode": mode, f"{part}_of": other, f"{part}_target": target}
            for own, other, target in zip(batch.ids, partners.ids, partners.targets, strict=True)
        ]
        return partners

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = {mode: gather_rows(trainer, own) for mode, own in self._rows.items()}
        swaps = {(str(swap["id"]), str(swap["mode"])): swap for swap in gather_rows(trainer, self._swaps)}
        self._rows, self._swaps = {}, []
        if not trainer.is_global_zero or not rows["full"] or trainer.fast_dev_run:
            return
        directory = Path(trainer.default_root_dir)
        paths = {mode: directory / f"predictions_{mode}.jsonl" for mode in rows}
        for mode, own in rows.items():
            write_rows(paths[mode], own)
        files = {mode: read_predictions(path) for mode, path in paths.items()}
        lines = changes(files, swaps)
        report = ablation_report(files, lines)
        write_rows(directory / CHANGES_FILE, lines)
        write_json(directory / REPORT_FILE, report)
        draw(report, directory / FIGURE_FILE)
        print_report(report, directory / REPORT_FILE)


def _tells_transcripts(dataset: object) -> bool:
    if not isinstance(dataset, ClipDataset):
        return False
    return any(record.told(dataset.transcript_template) is not None for record in dataset.records)


def _random_state(device: torch.device) -> list[Tensor]:
    """Of the generators that sampling draws from: the CPU's, and that of the current device of the module's kind."""
    own = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state()]
    return [torch.get_rng_state(), *own]


def _set_random_state(device: torch.device, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    for own in state[1:]:
        torch.get_device_module(device).set_rng_state(own)
