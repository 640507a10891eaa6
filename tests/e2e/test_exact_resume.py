"""A run that was killed goes on as if it had not been: the same weights to the bit, the same curves."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .killed_run import run
from .test_whole_method import BASE, POLICY, parts, stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def cold_start(root: Path) -> list[str]:
    """Five batches an epoch, two to an optimizer step, the last alone."""
    return [
        *["fit", *stack(*BASE, "stage/cold_start", "data/emer", *POLICY, "demo/cold_start"), *parts(root), *QUIET],
        *[f"--data.root={root}/emer", "--data.batch_size=4", "--trainer.max_epochs=2", "--model.warmup_ratio=0"],
        *["--model.global_batch=8", "--trainer.limit_val_batches=0", "--checkpoint.every_n_steps=1"],
    ]


def grpo(root: Path) -> list[str]:
    """Five batches an epoch, a validation after every second."""
    return [
        *["fit", *stack(*BASE, "stage/grpo", "data/dfew", *POLICY, "demo/grpo"), *parts(root), *QUIET],
        *["-c", str(Path(__file__).with_name("length_reward.yaml"))],
        *[f"--data.root={root}/dfew", "--data.batch_size=1", "--model.global_batch=2", "--data.limit=10"],
        *["--data.validation_fraction=0.2", "--data.eval_batch_size=1"],
        *["--model.group_size=3", "--model.rollout_sampling.max_new_tokens=12"],
        *[f"--model.verifier={root}/tiny/verifier", "--model.evaluation.max_new_tokens=4", "--trainer.max_epochs=2"],
        *["--model.evaluation.temperature=1.0", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1"],
        *["--trainer.max_steps=-1", "--checkpoint.every_n_steps=1", "--model.num_updates=2"],
        "--model.schedule=constant",
    ]


def verifier(root: Path) -> list[str]:
    return [
        *["fit", *stack(*BASE, "stage/verifier", "data/rationale_text", "demo/verifier"), *QUIET],
        *[f"--data.train={root}/sentences/train.jsonl", f"--model.path={root}/tiny/verifier", "--data.batch_size=32"],
        *["--trainer.max_epochs=2", "--checkpoint.every_n_steps=2"],
    ]


STAGES: dict[str, Callable[[Path], list[str]]] = {"cold_start": cold_start, "grpo": grpo, "verifier": verifier}


@pytest.fixture(scope="module")
def uninterrupted(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("uninterrupted")

    def get(stage: str) -> Path:
        directory = root / stage
        if not directory.exists():
            assert run([*STAGES[stage](world), f"--trainer.default_root_dir={directory}"]) == 0
        return directory

    return get


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar that depends on nothing but the computation."""
    events = EventAccumulator(str(directory))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith(("train/", "reward/", "val/"))]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


@pytest.mark.parametrize(
    ("stage", "kills"),
    [
        ("grpo", [{"moment": "between rollout and update", "count": 3}, {"moment": "in validation", "count": 1}]),
        ("grpo", [{"moment": "while a checkpoint is written", "count": 4}, {"seed": 0}]),
        ("grpo", [{"moment": "before the optimizer's step", "count": 10}]),
        ("cold_start", [{"moment": "in mid-accumulation", "count": 5}, {"seed": 1}]),
        ("verifier", [{"seed": 2}]),
    ],
)
def test_a_killed_run_goes_on_exactly(
    stage: str, kills: list[dict], world: Path, uninterrupted: Callable[[str], Path], tmp_path: Path
) -> None:
    expected = uninterrupted(stage)
    arguments = [*STAGES[stage](world), f"--trainer.default_root_dir={tmp_path}", "--ckpt_path=last"]
    for kill in kills:
        # A random moment may come after the end.
        assert run(arguments, **kill) in ((-signal.SIGKILL, 0) if "seed" in kill else (-signal.SIGKILL,))
    assert run(arguments) == 0
    weights = [load_file(file) for file in sorted((expected / "model").rglob("*.safetensors"))]
    resumed = [load_file(file) for file in sorted((tmp_path / "model").rglob("*.safetensors"))]
    assert weights and len(weights) == len(resumed)
    for one, other in zip(weights, resumed, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    curve = curves(expected)
    assert len({value for _, value in curve["train/loss"]}) == len(curve["train/loss"]) > 3, "something is learnt"
    assert curves(tmp_path) == curve, "each step once, with the same numbers"
    steps = [json.loads((path / "run.json").read_text())["optimizer_steps"] for path in (expected, tmp_path)]
    assert steps[0] == steps[1]
    assert not list((tmp_path / "checkpoints").glob(".partial*"))


@pytest.mark.parametrize(
    ("stage", "moment", "count", "step"),
    [
        # The batch is finished: the third one's two optimizer steps, the fourth one's end of an accumulation.
        ("grpo", "between rollout and update", 3, 6),
        ("cold_start", "in mid-accumulation", 4, 2),
        ("verifier", "in a step of the verifier", 3, 3),
    ],
)
def test_a_run_that_is_asked_to_end_saves_first(
    stage: str, moment: str, count: int, step: int, world: Path, uninterrupted: Callable[[str], Path], tmp_path: Path
) -> None:
    arguments = [*STAGES[stage](world), f"--trainer.default_root_dir={tmp_path}", "--ckpt_path=last"]
    rarely = "--checkpoint.every_n_steps=1000"
    assert run([*arguments, rarely], moment, count=count, sent=signal.SIGTERM) == 0, "a clean exit"
    saved = [file.name for file in (tmp_path / "checkpoints").iterdir()]
    assert saved == [f"step={step:08d}.ckpt"]
    assert not (tmp_path / "model").exists()
    assert run([*arguments, rarely]) == 0
    expected = uninterrupted(stage) / "model"
    files = [file.relative_to(expected) for file in expected.rglob("*.safetensors")]
    assert files
    for file in files:
        assert (tmp_path / "model" / file).read_bytes() == (expected / file).read_bytes()
