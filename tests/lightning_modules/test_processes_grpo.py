"""Stage 3 on two processes equals stage 3 on one with the same clips and completions, under DDP and FSDP2.

Tolerances, absolute, for float32 sums in another order: gradients 1e-6, weights after AdamW's steps 2e-5 at a learning
rate of 1e-3, advantages and logged values 1e-5.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.rewards.base import Reward
from callbacks.rl import RLCallback
from datamodules.batch import Clip, ClipBatch
from lightning_modules.backbones.adapters import LoRA
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Sampling
from lightning_modules.grpo import GRPOModule
from lightning_modules.rl.experience import experience_of
from lightning_modules.sharding import FSDP2Strategy

from .conftest import TRAINED
from .two_processes import STRATEGIES, DealtClips, Record, ReplayingBackbone, Step, on_two_processes, trained, trainer

pytestmark = pytest.mark.e2e

SAMPLING = Sampling(max_new_tokens=24)
UNIFORM = "clip3"
CLIP = 0.05
NOT_COMPARED = ("step/",)
"""Seconds and memory."""

Learn = Callable[..., dict[str, Any]]


def answer(clip_id: str, count: int) -> list[str]:
    """Completions of different lengths; `sadness` is right for some of the clips that are evaluated."""
    number = int(clip_id.removeprefix("clip"))
    return [f"<think>{'He ' * ((number + 3 * g) % 7)}frowns.</think>\n<answer>sad</answer>" for g in range(count)]


class WrittenReward(Reward):
    """Counts characters; all of one clip's completions get the same."""

    name = "written"

    def __call__(self, given) -> Tensor:
        counts = [float(len(response.completion)) for response in given.responses]
        return torch.tensor(
            [0.0 if target == "neutral" else n for n, target in zip(counts, given.targets, strict=True)]
        )


class Scores(Record):
    """Also the advantages by clip."""

    def __init__(self) -> None:
        super().__init__()
        self.advantages: dict[str, Tensor] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ClipBatch, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        experience = experience_of(outputs)
        if experience is not None:
            self.advantages |= dict(zip(batch.ids, experience.advantages.view(len(batch), -1), strict=True))


@pytest.fixture
def steps(make_clip: Callable[..., Clip]) -> list[Step]:
    """Different numbers of clips; a process whose only group teaches nothing; one all of whose clips are broken."""
    clips = [make_clip(i, target="neutral" if f"clip{i}" == UNIFORM else "anger") for i in range(7)]
    broken = make_clip(9, failure="broken", has_audio=False)
    return [([clips[0], clips[1]], [clips[2]]), ([clips[3]], [clips[4], clips[5]]), ([broken], [clips[6]])]


@pytest.fixture
def learn(tiny_models: Path, make_clip: Callable[..., Clip], steps: list[Step], tmp_path: Path) -> Learn:
    def run(
        rank: int | None,
        strategy: str | None,
        lora: bool = False,
        replay: bool = True,
        dtype: Any = "float32",
        shard_over: int | None = None,
        dealt: list[Step] = steps,
        **options: Any,
    ) -> dict[str, Any]:
        torch.manual_seed(0)
        parts = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
        backbone = (ReplayingBackbone if replay else ComposedBackbone)(
            **parts, num_frames=2, video_grid=2, audio_pool=10, lora=LoRA(rank=2) if lora else None, dtype=dtype
        )
        if replay:
            backbone.texts_of = answer
        # As towers have that are not used up to their last layer.
        backbone.vision_projector.register_parameter("unreached", torch.nn.Parameter(torch.ones(3)))
        module = GRPOModule(
            backbone,
            "dfew",
            trainable=TRAINED,
            evaluation=Sampling(max_new_tokens=6, temperature=0),
            group_size=3,
            num_updates=2,
            schedule="constant",
            **{"rollout_sampling": SAMPLING, "learning_rate": 1e-3, **options},
        )
        count = len(dealt[0])
        evaluated = [make_clip(i, target="sadness") for i in range(3)] + [make_clip(i) for i in range(3, 5)]
        val = tuple(evaluated[i::count] for i in range(count))
        record = Scores()
        made = FSDP2Strategy(shard_over) if shard_over else strategy and STRATEGIES[strategy]()
        devices = {"devices": count} if strategy else {}
        fit = trainer(made, tmp_path, RLCallback([WrittenReward()]), record, **devices)
        before = {name: value.float() for name, value in trained(module).items()}
        fit.fit(module, datamodule=DealtClips(dealt, val, rank))
        report = module.validation_report.compute()
        return {
            "before": before,
            "weights": trained(module),
            "gradients": record.gradients,
            "norms": record.norms,
            "advantages": record.advantages,
            "logged": record.logged,
            "report": {name: report[name] for name in ("num_samples", "war", "uar", "unknown_answers")},
        }

    return run


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddp, by token, rewards apart, uniform groups skipped": (
        "ddp",
        {"denominator": "token", "normalise": "per_reward", "uniform_groups": "skip"},
    ),
    "ddp, constant, sampled again": (
        "ddp",
        {"denominator": "constant", "uniform_groups": "resample", "max_resamples": 1, "completion_batch_size": 2},
    ),
    "fsdp2, by sequence, clipped": (
        "fsdp2",
        {"denominator": "sequence", "micro_batch_size": 1, "gradient_clip_norm": CLIP},
    ),
    "fsdp2, by token, adapters": (
        "fsdp2",
        {"denominator": "token", "uniform_groups": "skip", "completion_batch_size": 2, "lora": True},
    ),
}


@pytest.mark.parametrize(("strategy", "options"), CASES.values(), ids=CASES)
def test_two_processes_learn_what_one_does(
    learn: Learn, tmp_path: Path, strategy: str, options: dict[str, Any]
) -> None:
    results = on_two_processes(lambda rank: learn(rank, strategy, **options), tmp_path / "results")
    alone = learn(None, None, **options)
    advantages = results[0]["advantages"] | results[1]["advantages"]
    torch.testing.assert_close(advantages, alone["advantages"], rtol=0, atol=1e-5)
    assert alone["report"]["war"] == pytest.approx(3 / 5), "the metrics say something"
    if options.get("gradient_clip_norm") == CLIP:
        assert alone["norms"] == pytest.approx([CLIP] * 3, rel=1e-4), "each gradient was larger"
    for result in results:
        assert result["norms"] == pytest.approx(alone["norms"], abs=1e-6)
        assert result["report"] == alone["report"], "each clip once"
        assert torch.equal(result["weights"]["vision_projector.unreached"], torch.ones(3))
        assert len(result["gradients"]) == 2 * 3, "the same number of updates, whatever a process sampled"
        for own, expected in zip(result["gradients"], alone["gradients"], strict=True):
            # None on one process, and 0 where another one takes part with a zero gradient.
            own.pop("vision_projector.unreached", None), expected.pop("vision_projector.unreached", None)
            torch.testing.assert_close(own, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(result["weights"], alone["weights"], rtol=0, atol=2e-5)
        for own, expected in zip(result["logged"], alone["logged"], strict=True):
            assert own.keys() == expected.keys()
            compared = [name for name in expected if not name.startswith(NOT_COMPARED)]
            assert {n: own[n] for n in compared} == pytest.approx({n: expected[n] for n in compared}, abs=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_compiled_sampling_of_two_processes(
    learn: Learn, tmp_path: Path, traced: list[torch.fx.GraphModule], strategy: str
) -> None:
    """A program for several prompts and one for a single prompt, also where weights are sharded; they follow them."""

    def run(rank: int) -> dict[str, Any]:
        options = {"replay": False, "rollout_sampling": replace(SAMPLING, compiled=True)}
        return learn(rank, strategy, **options) | {"programs": len(traced)}

    results = on_two_processes(run, tmp_path / "results")
    torch.testing.assert_close(results[0]["weights"], results[1]["weights"], rtol=0, atol=0)
    for result in results:
        assert 1 <= result["programs"] <= 2
        assert all(any(gradient.any() for gradient in update.values()) for update in result["gradients"])
        assert max(logged["train/sampler_drift"] for logged in result["logged"]) < 1e-4


def test_shards_of_a_node_beside_copies(learn: Learn, make_clip: Callable[..., Clip], tmp_path: Path) -> None:
    """HSDP: four processes, two of which share the shards of each of two copies, learn what one does."""
    clips = [make_clip(i) for i in range(7)]
    broken = make_clip(9, failure="broken", has_audio=False)
    dealt = [([clips[0]], [clips[1], clips[2]], [clips[3]], [broken]), ([clips[4]], [broken], [clips[5]], [clips[6]])]
    results = on_two_processes(
        lambda rank: learn(rank, "fsdp2", shard_over=2, dealt=dealt), tmp_path / "results", count=4
    )
    alone = learn(None, None, dealt=dealt)
    for result in results:
        assert result["norms"] == pytest.approx(alone["norms"], abs=1e-6)
        torch.testing.assert_close(result["weights"], alone["weights"], rtol=0, atol=2e-5)


def cosine(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    one, other = (torch.cat([values[name].double().flatten() for name in sorted(first)]) for values in (first, second))
    return float(one @ other / one.norm() / other.norm())


def test_a_policy_in_bfloat16_learns_in_float32(learn: Learn, tmp_path: Path) -> None:
    """At the paper's learning rate, where weights in bfloat16 would stay as they are."""
    options: dict[str, Any] = {"learning_rate": 1e-6, "dtype": "bfloat16"}
    results = on_two_processes(lambda rank: learn(rank, "fsdp2", **options), tmp_path / "results")
    alone = learn(None, None, learning_rate=1e-6)
    first, expected = results[0], alone["gradients"][0]
    assert cosine({name: first["gradients"][0][name] for name in expected}, expected) >= 0.999
    moved = {name: (first["weights"][name] - first["before"][name]).abs() for name in first["weights"]}
    assert all(weight.dtype == torch.float32 for weight in first["weights"].values())
    reached = torch.cat([moved[name].flatten() for name in expected if expected[name].any()])
    assert (reached > 0).float().mean() > 0.95 and reached.max() < 2e-5
