"""Stage 1 on two processes equals stage 1 on one with the same clips, under DDP and FSDP2.

Tolerances, absolute, for float32 sums in another order: gradients 1e-6, weights after AdamW's steps 1e-5 at a learning
rate of 1e-3, logged values 1e-5.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.export import ExportCallback
from datamodules.batch import Clip
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Sampling
from lightning_modules.cold_start import ColdStartModule

from .conftest import TRAINED
from .two_processes import STRATEGIES, DealtClips, Record, Step, on_two_processes, trained, trainer

pytestmark = pytest.mark.e2e

GREEDY = Sampling(max_new_tokens=6, temperature=0)
Learn = Callable[..., dict[str, Any]]


@pytest.fixture
def steps(make_clip: Callable[..., Clip]) -> list[Step]:
    """Different numbers of clips and of tokens; then a process all of whose clips are broken; then both have some."""
    clips = [
        make_clip(i, response=f"<think>{'He shouts. ' * (1 + 3 * i)}</think>\n<answer>angry</answer>") for i in range(7)
    ]
    broken = make_clip(9, failure="broken", has_audio=False)
    return [
        ([clips[0], clips[1]], [clips[2]]),
        ([clips[3]], [broken]),
        ([clips[4]], [clips[5]]),
        ([broken], [clips[6]]),
    ]


@pytest.fixture
def learn(backbone: ComposedBackbone, make_clip: Callable[..., Clip], steps: list[Step], tmp_path: Path) -> Learn:
    def run(rank: int | None, strategy: str | None, accumulate: int, **options: Any) -> dict[str, Any]:
        module = ColdStartModule(
            backbone,
            "dfew",
            trainable=TRAINED,
            evaluation=GREEDY,
            learning_rate=1e-3,
            warmup_ratio=0.0,
            schedule="constant",
        )
        val = ([make_clip(i) for i in range(3)], [make_clip(i, target="sadness") for i in range(3, 5)])
        record = Record()
        fit = trainer(
            strategy and STRATEGIES[strategy](),
            tmp_path,
            record,
            ExportCallback(),
            accumulate_grad_batches=accumulate,
            **options,
        )
        fit.fit(module, datamodule=DealtClips(steps, val, rank))
        counts = module.validation_report.compute()["num_samples"]
        return {"weights": trained(module), "gradients": record.gradients, "logged": record.logged, "clips": counts}

    return run


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_learn_what_one_does(learn: Learn, tmp_path: Path, strategy: str, accumulate: int) -> None:
    results = on_two_processes(lambda rank: learn(rank, strategy, accumulate), tmp_path / "results")
    exported = ComposedBackbone(str(tmp_path / "model"))
    for name, value in results[0]["weights"].items():
        assert torch.equal(exported.get_parameter(name), value), "exported whole"
    alone = learn(None, None, accumulate)
    for result in results:
        assert result["clips"] == 5, "each clip once"
        assert len(result["gradients"]) == 4 // accumulate
        for own, expected in zip(result["gradients"], alone["gradients"], strict=True):
            torch.testing.assert_close(own, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(result["weights"], alone["weights"], rtol=0, atol=1e-5)
        for own, expected in zip(result["logged"], alone["logged"], strict=True):
            assert own == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_batches_are_one_mean_over_their_tokens(
    learn: Learn, backbone: ComposedBackbone, steps: list[Step], accumulate: int
) -> None:
    initial = {name: value.clone() for name, value in backbone.state_dict().items()}
    gradients = learn(None, None, accumulate)["gradients"][0]
    backbone.load_state_dict(initial)
    merged = [clip for step in steps[:accumulate] for part in step for clip in part]
    steps[:] = [(merged, [])]
    torch.testing.assert_close(gradients, learn(None, None, 1)["gradients"][0], rtol=0, atol=1e-6)
