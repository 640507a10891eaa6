"""Two processes that exchange tensors through gloo, and a run that is dealt out to them or done by one."""

import os
import socket
import time
import traceback
from collections.abc import Callable
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batch import Clip, ClipBatch, collate
from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Completions, Prompt, Sampling
from lightning_modules.policy import PolicyModule
from lightning_modules.sharding import FSDP2Strategy, whole

LIMIT = 120.0
"""Seconds after which two processes count as hanging; a run takes a few."""


STRATEGIES: dict[str, Callable[[], str | Strategy]] = {
    "ddp": lambda: "ddp_find_unused_parameters_true",
    "fsdp2": FSDP2Strategy,
}
"""As in configs/trainer/."""

Step = tuple[list[Clip], ...]
"""Clips of a step, by process."""


class DealtClips(LightningDataModule):
    """Batches of one process: its own clips of each step; or those of all, where it is alone.

    Args:
        train: the steps.
        val: clips to evaluate, by process, one to a batch.
        rank: of the process; None: it is alone.
    """

    taxonomy = DFEW_TAXONOMY

    def __init__(self, train: list[Step], val: Step, rank: int | None) -> None:
        super().__init__()
        self.train = [collate(_own(step, rank), drop_failures=True) for step in train]
        self.val = [collate([clip]) for clip in _own(val, rank)]

    def train_dataloader(self) -> DataLoader:
        return _loader(self.train)

    def val_dataloader(self) -> DataLoader:
        return _loader(self.val)

    test_dataloader = val_dataloader


def _own(step: Step, rank: int | None) -> list[Clip]:
    return list(chain(*step)) if rank is None else step[rank]


def _loader(batches: list[ClipBatch]) -> DataLoader:
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


class Record(Callback):
    """The gradient of every optimizer step before it is clipped, its norm afterwards, and all that is logged."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.norms: list[float] = []
        self.logged: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        named = pl_module.backbone.named_parameters()
        self.gradients.append({n: whole(p.grad).clone() for n, p in named if p.requires_grad and p.grad is not None})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ClipBatch, batch_idx: int
    ) -> None:
        gradients = [whole(p.grad) for p in pl_module.backbone.parameters() if p.grad is not None]
        self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def trained(module: PolicyModule) -> dict[str, Tensor]:
    """The trained weights in one piece."""
    named = module.backbone.named_parameters()
    return {name: whole(p.detach()).clone() for name, p in named if p.requires_grad}


def trainer(strategy: str | Strategy | None, directory: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """A quiet Trainer on two processes, or without a strategy on one."""
    torch.manual_seed(3)
    several = {"strategy": strategy, "devices": 2} if strategy else {"devices": 1}
    return Trainer(
        accelerator="cpu",
        default_root_dir=directory,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        use_distributed_sampler=False,
        **{"max_epochs": 1, "enable_checkpointing": False, "num_sanity_val_steps": 0, **several, **options},
    )


class ReplayingBackbone(ComposedBackbone):
    """Samples, and returns what `texts` gives for the clips' ids instead: the same on any number of processes."""

    texts_of: Callable[[str, int], list[str]]

    def encode(self, batch: ClipBatch, percept: Any = None) -> Prompt:
        self._clip_ids = batch.ids
        return super().encode(batch, percept)

    def generate(self, prompt: Prompt, num_return_sequences: int, sampling: Sampling) -> Completions:
        # For as long as each clip's number says: processes are busy for different numbers of tokens.
        busy = max(1, sampling.max_new_tokens - int(self._clip_ids[0].removeprefix("clip")) % 5)
        super().generate(prompt, num_return_sequences, Sampling(busy, sampling.temperature))
        texts = [text for clip_id in self._clip_ids for text in self.texts_of(clip_id, num_return_sequences)]
        return self.completion_ids(texts)


def on_two_processes(
    function: Callable[[int], dict[str, Any]], directory: Path, limit: float = LIMIT, count: int = 2
) -> list[Any]:
    """What the function returns on each of two, or `count`, processes, by rank.

    It gets the rank; it can build a Trainer with as many devices.

    Raises:
        AssertionError: a process raised, or they did not end in time.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    directory.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process must not look for the threads of its parent's OpenMP pool
    processes = [
        get_context("fork").Process(target=_run, args=(function, rank, port, directory)) for rank in range(count)
    ]
    try:
        for process in processes:
            process.start()
        end = time.monotonic() + limit
        # A process waits for another one that has failed: the first failure ends both.
        while any(process.is_alive() for process in processes) and time.monotonic() < end:
            if any(process.exitcode for process in processes):
                break
            time.sleep(0.02)
        hanging = [rank for rank, process in enumerate(processes) if process.is_alive()]
    finally:
        torch.set_num_threads(threads)
        for process in processes:
            process.kill()
            process.join()
    errors = [path.read_text() for path in sorted(directory.glob("*.error"))]
    assert not errors, "\n".join(errors)
    assert not hanging, f"processes {hanging} did not end within {limit} s"
    return [torch.load(directory / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _run(function: Callable[[int], dict[str, Any]], rank: int, port: int, directory: Path) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        torch.save(function(rank), directory / f"{rank}.pt")
    except BaseException:  # noqa: BLE001 - the parent shows it
        (directory / f"{rank}.error").write_text(f"Process {rank}:\n{traceback.format_exc()}")
        os._exit(1)
    os._exit(0)  # without the clean-up of the test run that this process is a copy of
