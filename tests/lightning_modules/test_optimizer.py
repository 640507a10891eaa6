"""Optimizers for weights at rest in 16 bits move them as AdamW moves float32 weights, and resume exactly.

torchao compiles each step for each shape of a weight; here it computes the same without the compiler.
"""

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer

from callbacks.checkpointing.files import DIRECTORY, CheckpointFiles
from callbacks.checkpointing.run_checkpoint import RunCheckpoint
from callbacks.rl import RLCallback
from datamodules.batch import Clip, ClipBatch
from lightning_modules.backbones.adapters import LoRA
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.cold_start import ColdStartModule
from lightning_modules.grpo import GRPOModule
from lightning_modules.movement import SAMPLE, Movement
from lightning_modules.optimizer import policy_optimizer
from lightning_modules.trainable_policy import TrainablePolicyModule

from .conftest import SHORT, TRAINED, Batches, LengthReward
from .two_processes import STRATEGIES, DealtClips, on_two_processes, trained, trainer

pytestmark = pytest.mark.e2e

RATE = 1e-6
SPREAD = 0.02
"""Of the weights, as in pretrained models: neighbours in bfloat16 lie 1.2e-4 apart."""

needs_torchao = pytest.mark.skipif(
    find_spec("torchao") is None,
    reason="torchao (extra `optimizers`) is not installed, as transformers imports it at every start where it is",
)
EIGHT_BITS = pytest.param("adamw_8bit", marks=needs_torchao)
MADE_FOR_16_BITS = [EIGHT_BITS, "kahan_adamw"]


@pytest.fixture(autouse=True)
def without_compiler() -> Iterator[None]:
    with torch.compiler.set_stance("force_eager"):
        yield


def make(name: str, parameters: list[nn.Parameter], rate: float = RATE) -> Optimizer:
    return policy_optimizer(name, parameters, SimpleNamespace(precision_plugin=None), lr=rate, weight_decay=0.0)


def movement(
    optimizer: Callable[[list[nn.Parameter]], Optimizer], dtype: torch.dtype, width: int = 4096, copies: int = 1
) -> Tensor:
    """What 200 noisy steps add to some weights, with what Kahan's summation keeps; the mean of some copies."""
    generator = torch.Generator().manual_seed(0)
    start = (SPREAD * torch.randn(1, width, generator=generator)).bfloat16()
    weights = nn.Parameter(start.to(dtype).repeat(copies, 1))
    steps, signal = optimizer([weights]), torch.randn(1, width, generator=generator)
    torch.manual_seed(1)
    for _ in range(200):
        gradient = 1e-3 * (signal + 3 * torch.randn(1, width, generator=generator))
        weights.grad = gradient.to(dtype).repeat(copies, 1)
        steps.step()
    kept = steps.state[weights].get("kahan_comp", torch.zeros(1))
    return (weights.detach().double() + kept.double() - start.double()).mean(dim=0)


def compared(moved: Tensor, expected: Tensor) -> tuple[float, float]:
    """Cosine, and ratio of norms."""
    return float(torch.cosine_similarity(moved, expected, dim=0)), float(moved.norm() / expected.norm())


def adamw(beta2: float) -> Callable[[list[nn.Parameter]], Optimizer]:
    return lambda parameters: torch.optim.AdamW(parameters, RATE, (0.9, beta2), weight_decay=0.0)


@pytest.mark.parametrize(
    ("name", "beta2", "width", "copies"),
    [("kahan_adamw", 0.99, 4096, 1), pytest.param("adamw_8bit", 0.999, 256, 128, marks=needs_torchao)],
)
def test_they_follow_float32(name: str, beta2: float, width: int, copies: int) -> None:
    """Cosine at least 0.99 and norms within 5 %: Kahan's summation in a single run, rounding by chance on average."""
    expected = movement(adamw(beta2), torch.float32, width)
    cosine, ratio = compared(movement(lambda p: make(name, p), torch.bfloat16, width, copies), expected)
    assert cosine > 0.99 and ratio == pytest.approx(1, abs=0.05)


@needs_torchao
def test_a_single_run_of_rounding_by_chance_adds_noise_and_takes_nothing_away() -> None:
    expected, moved = movement(adamw(0.999), torch.float32), movement(lambda p: make("adamw_8bit", p), torch.bfloat16)
    assert float(moved @ expected / (expected @ expected)) == pytest.approx(1, abs=0.1)
    assert 0.4 < compared(moved, expected)[0] < 0.8


def test_plain_adamw_in_bfloat16_loses_its_steps() -> None:
    cosine, ratio = compared(movement(adamw(0.999), torch.bfloat16), movement(adamw(0.999), torch.float32))
    assert cosine < 0.2 and ratio < 0.1


@pytest.mark.parametrize("name", MADE_FOR_16_BITS)
def test_a_checkpoint_holds_plain_tensors_and_goes_on_exactly(name: str, tmp_path: Path) -> None:
    def step(weights: nn.Parameter, optimizer: Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        weights.grad = torch.randn_like(weights)
        optimizer.step()

    weights = nn.Parameter(torch.randn(16, 512).bfloat16())
    optimizer = make(name, [weights], 1e-3)
    for seed in range(3):
        step(weights, optimizer, seed)
    torch.save([weights.detach(), optimizer.state_dict()], tmp_path / "state")
    with NothingRegistered():
        kept, state = torch.load(tmp_path / "state", weights_only=True)
    resumed = nn.Parameter(kept)
    again = make(name, [resumed], 1e-3)
    again.load_state_dict(state)
    for seed in range(3, 6):
        step(weights, optimizer, seed)
        step(resumed, again, seed)
    assert torch.equal(weights, resumed)


class NothingRegistered:
    """What a process that does not know torchao may read."""

    def __enter__(self) -> None:
        self.known = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()

    def __exit__(self, *_: Any) -> None:
        torch.serialization.add_safe_globals(self.known)


@pytest.mark.parametrize(("name", "package"), [("adamw_8bit", "torchao"), ("kahan_adamw", "optimi")])
def test_a_missing_package_is_named(
    name: str, package: str, backbone: ComposedBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"needs the package .*'\.\[optimizers\]'.* model.optimizer to adamw"):
        ColdStartModule(backbone, "dfew", trainable=TRAINED, learning_rate=1e-3, optimizer=name)


Make = Callable[..., TrainablePolicyModule]


@pytest.fixture
def policy(tiny_models: Path) -> Make:
    """A stage's module on a backbone whose language model stands in a type of 16 bits."""

    def run(stage: str, dtype: str = "bfloat16", lora: LoRA | None = None, **options: Any) -> TrainablePolicyModule:
        torch.manual_seed(0)
        parts = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
        backbone = ComposedBackbone(**parts, num_frames=2, video_grid=2, audio_pool=10, dtype=dtype, lora=lora)
        values = {"trainable": ["language_model"], "evaluation": SHORT, "learning_rate": 1e-4, "schedule": "constant"}
        if stage == "grpo":
            return GRPOModule(backbone, "dfew", rollout_sampling=SHORT, group_size=2, **{**values, **options})
        return ColdStartModule(backbone, "dfew", warmup_ratio=0.0, **{**values, **options})

    return run


def callbacks_of(stage: str) -> list[Any]:
    return [RLCallback([LengthReward()])] if stage == "grpo" else []


Fit = Callable[..., Trainer]
STAGES = ("cold_start", "grpo")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("dtype", "optimizer"), [("bfloat16", "adamw"), pytest.param("float16", "adamw_8bit", marks=needs_torchao)]
)
def test_steps_that_would_be_lost_are_refused(
    policy: Make, batches: list[ClipBatch], fit: Fit, stage: str, dtype: str, optimizer: str
) -> None:
    ways = r"fsdp2.yaml.*backbone.dtype to float32.*bf16-mixed, model.optimizer to .*, or model.backbone.lora"
    with pytest.raises(ValueError, match=f"at rest in {dtype} lose most steps .* with {optimizer}. .*{ways}"):
        fit(policy(stage, dtype, optimizer=optimizer), batches, *callbacks_of(stage))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"optimizer": "adamw_8bit"}, marks=needs_torchao),
        {"optimizer": "kahan_adamw"},
        {"lora": LoRA(2, 4)},
    ],
)
def test_what_keeps_its_steps_trains(
    policy: Make, batches: list[ClipBatch], fit: Fit, stage: str, options: dict[str, Any]
) -> None:
    module = policy(stage, **options)
    clips = {} if stage == "grpo" else {"gradient_clip_val": 1e-2}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The last optimizer step changed")
        logged = fit(module, batches, *callbacks_of(stage), **clips).callback_metrics
    share = float(logged["train/moved"])
    # Rounded by chance, a step of 1e-4 changes a weight about every other time.
    assert 0.2 < share < 0.9 if options.get("optimizer") == "adamw_8bit" else share > 0.95
    assert float(logged["train/learning_rate"]) == pytest.approx(1e-4)


@pytest.mark.parametrize("name", MADE_FOR_16_BITS)
def test_a_run_resumes_exactly(policy: Make, batches: list[ClipBatch], tmp_path: Path, name: str) -> None:
    def learn(directory: Path, start: Path | None = None, optimizer: str = name) -> dict[str, Tensor]:
        module = policy("cold_start", optimizer=optimizer, learning_rate=1e-3)
        checkpoint = RunCheckpoint(every_n_steps=1, every_n_minutes=None, keep=9)
        run = trainer(None, directory, checkpoint, max_epochs=2, limit_val_batches=0, enable_checkpointing=True)
        run.fit(module, datamodule=Batches(batches), ckpt_path=start, weights_only=True)
        return trained(module)

    expected = learn(tmp_path / "whole")
    file = tmp_path / "whole" / DIRECTORY / "step=00000002.ckpt"
    with NothingRegistered():
        CheckpointFiles().load_checkpoint(file)
    torch.testing.assert_close(learn(tmp_path / "resumed", file), expected, rtol=0, atol=0)
    other = "adamw" if name == "kahan_adamw" else "kahan_adamw"
    with pytest.raises(ValueError, match=f"holds the state of {name}, .* Set model.optimizer to {name}"):
        learn(tmp_path / "other", file, other)


@needs_torchao
def test_copies_of_the_weights_stay_equal_where_steps_round_by_chance(
    policy: Make, make_clip: Callable[..., Clip], tmp_path: Path
) -> None:
    steps = [([make_clip(0)], [make_clip(1)]), ([make_clip(2)], [make_clip(3)])]
    module = policy("cold_start", optimizer="adamw_8bit", learning_rate=1e-3)

    def learn(rank: int) -> dict[str, Any]:
        own = deepcopy(module)
        run = trainer(STRATEGIES["ddp"](), tmp_path, limit_val_batches=0)
        run.fit(own, datamodule=DealtClips(steps, ([], []), rank))
        return trained(own)

    first, second = on_two_processes(learn, tmp_path / "results")
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert any(not torch.equal(value, first[name]) for name, value in trained(module).items())


def test_shards_have_adamw(policy: Make, batches: list[ClipBatch], tmp_path: Path) -> None:
    def learn(rank: int) -> dict[str, Any]:
        said = {}
        for name in ("adamw", "kahan_adamw"):
            run = trainer(STRATEGIES["fsdp2"](), tmp_path, limit_val_batches=0, max_steps=1)
            try:
                run.fit(policy("cold_start", optimizer=name), datamodule=Batches(batches))
                said[name] = f"moved {run.callback_metrics['train/moved']:.2f}"
            except ValueError as refused:
                said[name] = str(refused)
        return said

    for said in on_two_processes(learn, tmp_path / "results"):
        assert said["adamw"] == "moved 1.00", "bfloat16 weights have float32 shards"
        assert "FSDP2Strategy keeps shards of its own in float32. Set model.optimizer to adamw" in said["kahan_adamw"]


@pytest.mark.parametrize("name", MADE_FOR_16_BITS)
def test_with_a_gradient_scaler(policy: Make, batches: list[ClipBatch], fit: Fit, name: str) -> None:
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**8))
    logged = fit(policy("cold_start", "float32", optimizer=name), batches, plugins=scaled).callback_metrics
    assert math.isfinite(logged["train/gradient_norm"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_rate_below_the_spacing_of_the_weights_warns_once(
    policy: Make, batches: list[ClipBatch], fit: Fit, stage: str
) -> None:
    with pytest.warns(UserWarning, match=r"changed \d+% of the trained weights: .* 1e-11 .* float32") as seen:
        logged = fit(policy(stage, "float32", learning_rate=1e-11), batches, *callbacks_of(stage)).callback_metrics
    assert sum("The last optimizer step changed" in str(one.message) for one in seen) == 1
    assert logged["train/moved"] < 0.5


def test_movement_is_a_share_of_what_has_a_gradient() -> None:
    weights, unused = nn.Parameter(torch.ones(40, 10)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weights, unused], lr=1.0)
    movement = Movement(optimizer, learning_rate=4.0)
    weights.grad = torch.zeros(40, 10)
    weights.grad[:20], weights.grad[20:30] = 1.0, 1e-9
    movement.look()
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert movement.share(torch.device("cpu")) == pytest.approx(2 / 3)
        assert not movement.is_measured
        movement.look()
        weights.grad[:] = 0
        movement.look()
        optimizer.step()
        assert movement.share(torch.device("cpu")) is None, "nothing asked for a change"
        # A quarter of the peak, as in a warm-up.
        weights.data[:], weights.grad[:] = 1.0, 1e-9
        movement.look()
        optimizer.step()
        assert movement.share(torch.device("cpu")) == 0


def test_movement_looks_at_a_sample() -> None:
    weights = nn.Parameter(torch.zeros(1000, 1000))
    optimizer = torch.optim.SGD([weights], lr=1.0)
    movement = Movement(optimizer, learning_rate=1.0)
    weights.grad = torch.zeros_like(weights)
    weights.grad[:, :250] = 1
    movement.look()
    assert movement._looked[0].before.numel() <= 2 * SAMPLE
    optimizer.step()
    assert movement.share(torch.device("cpu")) == 1
