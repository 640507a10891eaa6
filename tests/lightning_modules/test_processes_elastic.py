"""A run begun on two processes goes on in mid-epoch on four, and then on one: each clip once, one process' weights.

Each step takes the same four clips, however they are dealt out: weights agree to 2e-5 after AdamW's steps at a learning
rate of 1e-3, as in test_processes_cold_start.py (6e-7 were measured).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer

from callbacks.checkpointing.run_checkpoint import RunCheckpoint
from datamodules.batch import Clip, ClipBatch, collate
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.loader import ResumableLoader
from datamodules.samplers import training_sampler
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Sampling
from lightning_modules.cold_start import ColdStartModule

from .conftest import TRAINED
from .two_processes import STRATEGIES, on_two_processes, trained, trainer

pytestmark = pytest.mark.e2e

GLOBAL_BATCH = 4
NUM_CLIPS = 12


class Clips(LightningDataModule):
    """An epoch that is dealt out to as many processes as there are."""

    taxonomy = DFEW_TAXONOMY

    def __init__(self, clips: list[Clip]) -> None:
        super().__init__()
        self.clips = clips

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(
            self.clips,
            batch_size=GLOBAL_BATCH // self.trainer.world_size,
            sampler=training_sampler(self.clips, self.trainer, seed=5),
            drop_last=True,
            collate_fn=collate,
        )


class Seen(Callback):
    """Ids of the clips of each step."""

    def __init__(self) -> None:
        self.ids: list[list[str]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ClipBatch, batch_idx: int
    ) -> None:
        self.ids.append(batch.ids)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_then_four_then_one(
    tiny_models: Path, make_clip: Callable[..., Clip], tmp_path: Path, strategy: str
) -> None:
    clips = [make_clip(number) for number in range(NUM_CLIPS)]

    def run(name: str, count: int, start: Path | None) -> dict[str, Any]:
        """From a checkpoint to the end of the epoch, with a checkpoint of each step."""
        torch.manual_seed(0)
        parts = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
        module = ColdStartModule(
            ComposedBackbone(**parts, num_frames=2, video_grid=2, audio_pool=10),
            "dfew",
            trainable=TRAINED,
            evaluation=Sampling(max_new_tokens=6, temperature=0),
            learning_rate=1e-3,
        )
        seen = Seen()
        checkpoint = RunCheckpoint(every_n_steps=1, every_n_minutes=None, keep=9)
        chosen = STRATEGIES[strategy]() if count > 1 else None
        fit = trainer(chosen, tmp_path / name, seen, checkpoint, enable_checkpointing=True, devices=count)
        fit.fit(module, datamodule=Clips(clips), ckpt_path=start, weights_only=True)
        return {"ids": seen.ids, "weights": trained(module)}

    def step(name: str, number: int) -> Path:
        return tmp_path / name / "checkpoints" / f"step={number:08d}.ckpt"

    alone = run("alone", 1, None)
    on_two = on_two_processes(lambda _: run("two", 2, None), tmp_path / "results of two")
    on_four = on_two_processes(lambda _: run("four", 4, step("two", 1)), tmp_path / "results of four", count=4)
    on_one = run("one", 1, step("four", 2))

    first, second = ({clip for process in results for clip in process["ids"][0]} for results in (on_two, on_four))
    (third,) = on_one["ids"]
    assert [first, second, set(third)] == [set(ids) for ids in alone["ids"]]
    assert len({*first, *second, *third}) == NUM_CLIPS, "each clip of the epoch exactly once"
    assert [len(process["ids"]) for process in on_four] == [2] * 4
    for result in (*on_two, *on_four, on_one):
        torch.testing.assert_close(result["weights"], alone["weights"], rtol=0, atol=2e-5)
    for result in on_four:
        torch.testing.assert_close(result["weights"], on_four[0]["weights"], rtol=0, atol=0)
