"""docs/paper_index.md is true: its values are those of the configurations, of the constructors and of the code."""

import re
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from inspect import signature
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

import main
from callbacks.rewards.base import Reward
from datamodules.batch import SAMPLE_RATE
from datamodules.clip_source import BASE_QUESTION, INSTRUCTION, OUTPUT_FORMAT
from datamodules.emotions import MAFW_TAXONOMY
from datamodules.media import PAD_GREY
from datamodules.media_settings import MelSettings
from lightning_modules.backbones.adapters import LoRA
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.cold_start import ColdStartModule
from lightning_modules.emotion_verifier import MAX_LABELS, THRESHOLD, EmotionVerifier
from lightning_modules.grpo import GRPOModule
from lightning_modules.rl.advantages import group_advantages

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[1]

STAGES = {
    "cold_start": ("lightning_modules.cold_start.ColdStartModule", "emer", "datamodules.emer.EMER"),
    "verifier": (
        "lightning_modules.verifier.VerifierModule",
        "rationale_text",
        "datamodules.rationale_text.RationaleText",
    ),
    "grpo": ("lightning_modules.grpo.GRPOModule", "dfew", "datamodules.dfew.DFEW"),
    "evaluate": ("lightning_modules.policy.PolicyModule", "dfew", "datamodules.dfew.DFEW"),
}
"""Stage → the class of its model, the file and the class of its data."""

SET_BY_FILES = {"model.path", "data.batch_size", "trainer.max_epochs", "trainer.precision"}
"""Values that stand in a file of configs/ alone; all others are defaults as well."""

CONFIGURED = [
    ("Data and decoding", "fold", "grpo", ["data.fold"]),
    ("Data and decoding", "validation set", "grpo", ["data.validation_fraction"]),
    ("Data and decoding", "frames per clip", "cold_start", ["data.media.num_frames"]),
    ("Data and decoding", "frames per clip", "grpo", ["data.media.num_frames"]),
    ("Data and decoding", "frames per clip", "evaluate", ["data.media.num_frames"]),
    ("Stage 1: cold start", "schedule, warm-up", "cold_start", ["model.schedule", "model.warmup_ratio"]),
    ("Stage 1: cold start", "weight decay", "cold_start", ["model.weight_decay"]),
    ("Stage 1: cold start", "epochs", "cold_start", ["trainer.max_epochs"]),
    ("Stage 1: cold start", "clips per optimizer step", "cold_start", ["data.batch_size"]),
    ("Stage 1: cold start", "precision", "cold_start", ["trainer.precision"]),
    ("Stage 2: the verifier", "start", "verifier", ["model.path"]),
    ("Stage 2: the verifier", "learning rate", "verifier", ["model.learning_rate"]),
    ("Stage 2: the verifier", "epochs, batch", "verifier", ["trainer.max_epochs", "data.batch_size"]),
    ("Stage 2: the verifier", "weight decay, warm-up, schedule", "verifier",
     ["model.weight_decay", "model.warmup_ratio"]),
    ("Stage 2: the verifier", "longest sentence", "verifier", ["model.max_tokens"]),
    ("Stage 3: GRPO", "· what becomes of it", "grpo", ["model.uniform_groups"]),
    ("Stage 3: GRPO", "updates per rollout", "grpo", ["model.num_updates"]),
    ("Stage 3: GRPO", "β", "grpo", ["model.beta"]),
    ("Stage 3: GRPO", "G", "grpo", ["model.group_size"]),
    ("Stage 3: GRPO", "prompts per optimizer step", "grpo", ["data.batch_size"]),
    ("Stage 3: GRPO", "temperature, top-p", "grpo",
     ["model.rollout_sampling.temperature", ("model.rollout_sampling.top_p", 1.0, "off")]),
    ("Stage 3: GRPO", "top-k", "grpo", [("model.rollout_sampling.top_k", 0, "off")]),
    ("Stage 3: GRPO", "longest completion", "grpo", ["model.rollout_sampling.max_new_tokens"]),
    ("Stage 3: GRPO", "epochs", "grpo", ["trainer.max_epochs"]),
    ("Stage 3: GRPO", "clip range ε_low, ε_high", "grpo", ["model.epsilon_low", "model.epsilon_high"]),
    ("Stage 3: GRPO", "gradient norm", "grpo", ["model.gradient_clip_norm"]),
    ("Stage 3: GRPO", "schedule, warm-up, weight decay", "grpo",
     ["model.schedule", "model.warmup_ratio", "model.weight_decay"]),
    ("Evaluation", "decoding", "evaluate",
     [f"model.evaluation.{name}" for name in ("temperature", "top_p", "max_new_tokens")]),
]  # fmt: skip
"""Section and first cell of a row, the stage, and the options whose values the cell lists first, in this order."""


@cache
def rows() -> dict[tuple[str, str], str]:
    """What stands in the second column, by section and first cell."""
    section, cells = "", {}
    for line in (ROOT / "docs" / "paper_index.md").read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| "):
            first, second, *_ = (cell.strip() for cell in line.strip("|").split(" | "))
            assert (section, first) not in cells, f"two rows of {section} are called {first}"
            cells[section, first] = second
    return cells


def numbers(cell: str) -> list[float]:
    """The numbers in a text; a percentage is a share."""
    found = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?(?:e-?\d+)?)( %)?", cell)
    return [float(number) / (100 if percent else 1) for number, percent in found]


@cache
def printed(*arguments: str) -> dict[str, Any]:
    """What `fit --print_config` shows."""
    output = StringIO()
    with redirect_stdout(output), pytest.raises(SystemExit):
        main.run(["fit", *arguments, "--print_config"])
    return yaml.safe_load(output.getvalue())


def configured(stage: str) -> dict[str, Any]:
    """A stage as its files configure it."""
    names = ["trainer/default", "trainer/gpu", f"stage/{stage}", f"data/{STAGES[stage][1]}"]
    files = [f"configs/{name}.yaml" for name in [*names, *(["backbone/humanomni"] if stage != "verifier" else [])]]
    return printed(*(argument for file in files for argument in ("-c", str(ROOT / file))))


def by_default(stage: str) -> dict[str, Any]:
    """A stage without any file."""
    model, _, data = STAGES[stage]
    return printed(f"--model={model}", f"--data={data}")


def value_at(config: dict[str, Any], key: str) -> Any:
    head, *names = key.split(".")
    value = config[head] if head == "trainer" else config[head]["init_args"]
    for name in names:
        value = value[name]
    return value


@pytest.mark.parametrize(
    ("section", "row", "stage", "keys"), CONFIGURED, ids=[f"{stage}: {row}" for _, row, stage, _ in CONFIGURED]
)
@pytest.mark.parametrize("source", [configured, by_default])
def test_what_is_configured(
    section: str, row: str, stage: str, keys: list[Any], source: Callable[[str], dict[str, Any]]
) -> None:
    cell = rows()[section, row]
    in_order = []
    for key in keys:
        name, off, word = key if isinstance(key, tuple) else (key, None, None)
        if source is by_default and name in SET_BY_FILES:
            continue
        value = value_at(source(stage), name)
        if word is not None:
            assert value == off and word in cell, f"{name} is {value}; {cell}"
        elif isinstance(value, str):
            assert re.search(rf"\b{re.escape(value)}\b", cell), f"{name} is {value}; {cell}"
        else:
            in_order.append(float(value))
    assert numbers(cell)[: len(in_order)] == pytest.approx(in_order)


def test_learning_rates_of_every_backbone() -> None:
    cells = rows()
    rates = [numbers(cells[section, "learning rate"]) for section in ("Stage 1: cold start", "Stage 3: GRPO")]
    rank, alpha, *adapters = numbers(cells["Backbone", "adapters (LoRA)"])[:4]
    for path in sorted((ROOT / "configs" / "backbone").glob("*.yaml")):
        options = yaml.safe_load(path.read_text())["model"]["init_args"]["backbone"]["init_args"]
        found = [float(options["recipes"][stage]["learning_rate"]) for stage in ("cold_start", "grpo")]
        assert found == ([rate for (rate,) in rates] if "lora" not in options else adapters), path.name
        assert options.get("lora") in (None, {"rank": rank, "alpha": alpha}), path.name
        assert options.get("num_frames", 8) == numbers(cells["Data and decoding", "frames per clip"])[0], path.name
    assert [LoRA().rank, LoRA().alpha] == [rank, alpha]


PUBLISHED_BATCH = {
    "cold_start": ("Stage 1: cold start", "clips per optimizer step", ColdStartModule),
    "grpo": ("Stage 3: GRPO", "prompts per optimizer step", GRPOModule),
}


@pytest.mark.parametrize(
    ("size", "backbone", "strategy"), [("0.5b", "humanomni", "ddp"), ("7b", "humanomni_7b", "fsdp2")]
)
@pytest.mark.parametrize(("stage", "data"), [("cold_start", "emer"), ("grpo", "joint")])
def test_the_papers_files_are_the_stack_with_the_papers_batch(
    size: str, backbone: str, strategy: str, stage: str, data: str
) -> None:
    """So that what the other tests find in the parts holds of the whole."""
    section, row, module = PUBLISHED_BATCH[stage]
    batch = int(rows()[section, row].partition("; ")[2].split()[0])
    assert module.published_batch == batch
    parts = ["trainer/default", f"trainer/{strategy}", "trainer/bf16_mixed", f"stage/{stage}", f"data/{data}"]
    runs = f"runs/paper/{{}}_{size}"
    expected = printed(
        *(argument for name in [*parts, f"backbone/{backbone}"] for argument in ("-c", f"{ROOT}/configs/{name}.yaml")),
        *[f"--model.global_batch={batch}", f"--data.batch_size={2 if stage == 'cold_start' else 1}"],
        *["--model.taxonomy=mafw", "--model.backbone.gradient_checkpointing=true"],
        *[f"--trainer.default_root_dir={runs.format(stage)}"],
        *(
            ["--data.taxonomy=mafw"]
            if stage == "cold_start"
            else [f"--model.backbone.path={runs.format('cold_start')}/model"]
        ),
    )
    found = printed("-c", f"{ROOT}/configs/paper/{stage}_{size}.yaml")
    assert found == expected


def default(function: Callable[..., Any], name: str) -> Any:
    return signature(function).parameters[name].default


def test_what_stands_in_the_code() -> None:
    cells = rows()
    data, reward, backbone = "Data and decoding", "Rewards", "Backbone"
    media = value_at(by_default("grpo"), "data.media")
    assert numbers(cells[data, "how frames become square"]) == [PAD_GREY] and media["frame_fit"] == "pad"
    assert numbers(cells[data, "audio"]) == [SAMPLE_RATE / 1000, media["max_audio_seconds"]]
    assert numbers(cells[data, "log-mel features"]) == [MelSettings().num_bins, MelSettings().seconds]
    assert cells[data, "stereo to mono"] == "(L+R)/√2" and media["downmix"] == "sqrt2"
    label_set = "labels with p > {}; none: the most probable; more than {}: the {} most probable"
    two = {2: "two"}[MAX_LABELS]
    assert cells[reward, "· label set L_s of a sentence"] == label_set.format(THRESHOLD, two, two)
    assert default(Reward.__init__, "weight") == 1.0
    assert (
        default(EmotionVerifier.__init__, "max_tokens")
        == numbers(cells["Stage 2: the verifier", "longest sentence"])[0]
    )
    (row,) = [what for section, what in cells if section == "Stage 3: GRPO" and what.startswith("advantage")]
    assert numbers(row) == [default(group_advantages, "eps")] and default(group_advantages, "normalise_std") is True
    assert numbers(cells[backbone, "audio tokens"])[0] == default(ComposedBackbone.__init__, "audio_pool")


def test_what_is_asked_and_which_label_each_emotion_has() -> None:
    cells, section = rows(), "Instruction and reading of a completion"
    question, request = cells[section, "question"], cells[section, "output request, after two spaces"]
    assert question == f'"{BASE_QUESTION}"' and request.replace("`", "") == f'"{OUTPUT_FORMAT}"'
    assert f"{BASE_QUESTION}  {OUTPUT_FORMAT}" == INSTRUCTION
    same, _, others = cells[section, "verifier label of each emotion"].partition(" themselves; ")
    labels = {emotion: emotion for emotion in same.split(", ")}
    labels |= {emotion: label for emotion, _, label in (pair.partition("→") for pair in others.split(", "))}
    assert labels == MAFW_TAXONOMY.labels


def test_variants_of_the_loss_are_off() -> None:
    config, cells = configured("grpo"), rows()
    (callback,) = (c["init_args"] for c in config["trainer"]["callbacks"] if c["class_path"].endswith("RLCallback"))
    assert [reward["class_path"].rsplit(".")[-1] for reward in callback["rewards"]] == [
        "FormatReward",
        "AccuracyReward",
        "ExplanationReward",
    ]
    assert [reward["init_args"]["weight"] for reward in callback["rewards"]] == [1.0] * 3
    off = {
        "denominator": "sequence",
        "importance": "token",
        "normalise": "sum",
        "normalise_std": True,
        "mask_truncated": False,
    }
    assert {name: value_at(config, f"model.{name}") for name in off} == off
    (row,) = [
        cell for (_, what), cell in cells.items() if what == "groups of equal rewards sampled again, then left out"
    ]
    assert numbers(row) == [value_at(config, "model.max_resamples")]
