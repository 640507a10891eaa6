"""What stage 3 needs of each device: memory by phase, checkpoint size, and least time per step.

All of it follows from the configuration that `fit` would run; no weight is read.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from lightning_modules.backbones.adapters import adapter_parameters
from lightning_modules.backbones.decoder_backbone import DecoderBackbone
from lightning_modules.backbones.fork import can_group
from lightning_modules.backbones.generation import is_compiled
from lightning_modules.backbones.interface import Sampling
from lightning_modules.backbones.logprobs import chunk_elements
from lightning_modules.backbones.static_fork import ROOM
from lightning_modules.global_batch import GlobalBatch
from lightning_modules.optimizer import PolicyOptimizer
from tools.estimate.geometries import write_settings
from tools.estimate.limits import Limits
from tools.estimate.memory import Layout, checkpoint_bytes
from tools.estimate.shapes import DecoderShape, Numerics, Trained, Workload
from tools.estimate.skeleton import build_backbone, count_verifier, media_of
from tools.estimate.states import PHASES, ByPhase, Numbers, Strategy, state_bytes
from tools.estimate.step import Plan, step_bytes, step_seconds

GRPO = "lightning_modules.grpo.GRPOModule"
_HUMANOMNI = "lightning_modules.backbones.humanomni.backbone.HumanOmniBackbone"

_USABLE = 0.9
"""Share of a device's memory that tensors can take: the rest goes to CUDA's context, to its libraries' workspaces and
to gaps between tensors."""

_GIB = 2**30


@dataclass(frozen=True)
class Part:
    """A part of the backbone: how many numbers it has, and how many of them are trained."""

    numbers: int
    trained: int


@dataclass(frozen=True)
class Estimate:
    """What a device needs.

    Args:
        parts: parts of the backbone by name.
        memory: bytes by part and phase.
        checkpoint: bytes of a checkpoint.
        seconds: least seconds by phase of a step.
        num_prompts: prompts of a step on one device.
        facts: what the figures hold for, by name.
        notes: what they leave out.
    """

    parts: dict[str, Part]
    memory: dict[str, ByPhase]
    checkpoint: float
    seconds: dict[str, float]
    num_prompts: int
    facts: dict[str, str]
    notes: list[str]

    @property
    def totals(self) -> ByPhase:
        """Bytes by phase."""
        return {phase: sum(row.get(phase, 0) for row in self.memory.values()) for phase in PHASES}

    @property
    def peak(self) -> float:
        """Bytes of the phase that needs most."""
        return max(self.totals.values())


def estimate(
    config: Mapping[str, Any],
    limits: Limits,
    geometry: str | None = None,
    prompt_tokens: int | None = None,
    clip_seconds: float = 10.0,
) -> Estimate:
    """Estimate a run of stage 3.

    Args:
        config: of `fit`, whole.
        limits: of the devices.
        geometry: build this model of `sizes.GEOMETRIES` in place of the backbone's `path`.
        prompt_tokens: positions of a prompt; None: counted.
        clip_seconds: length of the clips.

    Raises:
        ValueError: another stage, no backbone, a precision or strategy without an estimate, or a model whose settings
            cannot be found.
    """
    model = config.get("model") or {}
    if model.get("class_path") != GRPO:
        raise ValueError(
            f"The model is {model.get('class_path')!r}; estimates are for stage 3, {GRPO}. Stack "
            "configs/stage/grpo.yaml. Stage 1 with the same batch needs less: it has no reference and no rollout."
        )
    options, trainer = model["init_args"], config["trainer"]
    with tempfile.TemporaryDirectory() as scratch:
        settings = _backbone_settings(options["backbone"], geometry, Path(scratch))
        backbone = build_backbone(settings)
        backbone.set_trainable(_trainable(options["trainable"], backbone))
        media = media_of(backbone, settings["init_args"].get("path"), clip_seconds)
    strategy = Strategy.of(trainer)
    dtype = settings["init_args"].get("dtype", "float32")
    numerics = Numerics.of(trainer["precision"], dtype)
    options, batch_size = _dealt(options, config["data"]["init_args"].get("batch_size", 1), strategy.devices)
    plan = _plan(options, batch_size, prompt_tokens or media.prompt_positions, backbone, trainer["accelerator"])
    numbers = _numbers(backbone, plan, count_verifier(options["verifier"]), options["optimizer"])
    decoder = DecoderShape.of(backbone.decoder.config)
    memory = state_bytes(numbers, numerics, strategy)
    elements = chunk_elements(_device_type(trainer["accelerator"]))
    memory |= step_bytes(decoder, numerics, plan, elements, media.towers, media.projectors)
    num_tensors = sum(parameter.requires_grad for parameter in backbone.parameters())
    loses_steps = numbers.trained and numerics.weight < 4 and strategy.kind != "fsdp2" and numbers.optimizer == "adamw"
    return Estimate(
        {name: _part(part) for name, part in backbone.parts.items()},
        {name: row for name, row in memory.items() if any(row.values())},
        checkpoint_bytes(
            numbers.saved_bytes(numerics, strategy), numbers.moment_bytes(numerics, strategy), num_tensors
        ),
        step_seconds(decoder, numerics, plan, limits),
        plan.load.prompts,
        _facts(strategy, trainer["precision"], dtype, plan, clip_seconds if prompt_tokens is None else None),
        [
            *_notes(options, settings["init_args"].get("attn_implementation"), plan, geometry),
            *(["`fit` refuses this: AdamW loses most steps of weights in 16 bits. See model.optimizer."] * loses_steps),
        ],
    )


def _backbone_settings(given: Mapping[str, Any] | None, geometry: str | None, scratch: Path) -> dict[str, Any]:
    if not given:
        raise ValueError("The configuration has no backbone. Stack one of configs/backbone/*.yaml.")
    settings = {**given, "init_args": dict(given["init_args"])}
    if geometry is not None:
        if given["class_path"] != _HUMANOMNI:
            raise ValueError(
                f"--geometry gives sizes of HumanOmni models, and the backbone is {given['class_path']}. Stack "
                "configs/backbone/humanomni.yaml (0.5b) or configs/backbone/humanomni_7b.yaml (3b, 7b)."
            )
        settings["init_args"] |= write_settings(geometry, scratch)
    return settings


def _trainable(given: list[str] | None, backbone: DecoderBackbone) -> list[str]:
    recipe = (backbone.recipes or {}).get("grpo")
    if given is None and recipe is None:
        raise ValueError("What is trained? Set model.init_args.trainable, or the backbone's recipes.grpo.")
    return given if recipe is None or given is not None else recipe.trainable


def _dealt(options: Mapping[str, Any], batch_size: int, num_processes: int) -> tuple[Mapping[str, Any], int]:
    """The options and the prompts of a step on one device, after `model.global_batch` has been dealt out."""
    if options["global_batch"] is None:
        return options, batch_size
    batch = GlobalBatch.dealt(options["global_batch"], num_processes, batch_size)
    return {**options, "micro_batch_size": options["micro_batch_size"] or batch.batch_size}, batch.share


def _plan(
    options: Mapping[str, Any], batch_size: int, prompt_positions: int, backbone: DecoderBackbone, accelerator: str
) -> Plan:
    decoder = backbone.decoder
    groups = can_group(decoder)
    sampling = Sampling(**options["rollout_sampling"])
    load = Workload(batch_size, options["group_size"], prompt_positions, sampling.max_new_tokens)
    return Plan(
        load=load,
        rollout_batch_size=options["rollout_batch_size"],
        micro_batch_size=options["micro_batch_size"],
        completion_batch_size=options["completion_batch_size"],
        layout=_layout(decoder.body.is_activation_checkpointing, groups and accelerator == "cpu"),
        shares_prompts=groups,
        trained=_trained(decoder.body),
        has_reference=options["beta"] > 0,
        num_updates=options["num_updates"],
        room=ROOM if is_compiled(decoder, sampling, _device_type(accelerator)) else 1,
    )


def _device_type(accelerator: str) -> str:
    """Of `trainer.accelerator`; what is to be found out counts as a GPU, for which there are estimates."""
    return "cpu" if accelerator == "cpu" else "cuda"


def _layout(recomputes: bool, groups: bool) -> Layout:
    if recomputes:
        return "packed"
    return "grouped" if groups else "repeated"


def _trained(body: nn.Module) -> Trained:
    adapters = {id(parameter) for parameter in adapter_parameters(body)}
    trained = [parameter for parameter in body.parameters() if parameter.requires_grad]
    if not trained:
        return "nothing"
    return "adapters" if all(id(parameter) in adapters for parameter in trained) else "weights"


def _numbers(backbone: DecoderBackbone, plan: Plan, verifier: int, optimizer: PolicyOptimizer) -> Numbers:
    adapters = sum(parameter.numel() for parameter in adapter_parameters(backbone) if parameter.requires_grad)
    whole = _part(backbone)
    trained = whole.trained - adapters
    return Numbers(
        trained=trained,
        adapters=adapters,
        frozen=whole.numbers - whole.trained,
        copied=trained if plan.has_reference else 0,
        verifier=verifier,
        optimizer=optimizer,
    )


def _part(module: nn.Module) -> Part:
    parameters = list(module.parameters())
    return Part(sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad))


def _facts(strategy: Strategy, precision: str | None, dtype: str, plan: Plan, seconds: float | None) -> dict[str, str]:
    load, backward = plan.load, plan.backward
    completions = {
        "grouped": "prompts once for their group",
        "repeated": "keys and values repeated for each completion",
        "packed": "gradient checkpointing: a prompt and its group in one row",
    }
    return {
        "devices": f"{strategy.devices}, {strategy.kind}; precision {precision or '32-true'}, weights in {dtype}",
        "step of a device": f"{load.prompts} prompts × {load.group} completions of {load.new_tokens} tokens",
        "prompt": f"{load.prompt_positions:,} positions" + (f", clips of {seconds:g} s" if seconds else ""),
        "sampled at once": f"{plan.rollout.prompts} prompts",
        "sent backward at once": (
            f"{backward.prompts} prompts × {backward.group} completions; {completions[plan.layout]}"
        ),
        "trained in the language model": plan.trained,
    }


def _notes(options: Mapping[str, Any], attention: str | None, plan: Plan, geometry: str | None) -> list[str]:
    notes = ["Every completion is taken to be as long as max_new_tokens allows."]
    if geometry is not None:
        notes.append(f"Sizes of --geometry {geometry}, not of a checkpoint.")
    if options["verifier"] is None:
        notes.append("No model.verifier is given: RoBERTa base is counted.")
    if options["judge"] is not None:
        notes.append("The judge is left out.")
    if attention == "eager":
        notes.append("attn_implementation is eager: it writes attention weights down, which are left out.")
    if not plan.shares_prompts:
        notes.append("This decoder has attention windows or the like: prompts are repeated, windows not counted.")
    return notes


def show(console: Console, result: Estimate, limits: Limits) -> None:
    """Print an estimate."""
    for name, text in result.facts.items():
        console.print(f"[bold]{name}[/bold]: {text}", highlight=False)
    console.print(_parts_table(result.parts))
    console.print(_memory_table(result))
    console.print(_verdict(result.peak, limits), highlight=False)
    console.print(
        f"A checkpoint takes {result.checkpoint / _GIB:.1f} GiB on disk, beside those that are kept.",
        highlight=False,
    )
    console.print(_least_time(result.seconds, result.num_prompts, limits), highlight=False)
    for note in result.notes:
        console.print(f"- {note}", highlight=False)


def _parts_table(parts: Mapping[str, Part]) -> Table:
    table = Table("part", title="Parameters, in millions")
    for name in ("all", "trained", "frozen"):
        table.add_column(name, justify="right")
    total = Part(sum(part.numbers for part in parts.values()), sum(part.trained for part in parts.values()))
    for name, part in {**parts, "total": total}.items():
        if name == "total":
            table.add_section()
        counts = (part.numbers, part.trained, part.numbers - part.trained)
        table.add_row(name, *(f"{count / 1e6:,.1f}" if count else "–" for count in counts))
    return table


def _memory_table(result: Estimate) -> Table:
    table = Table("GiB on one device", title="Memory, at the largest moment of each phase")
    for phase in PHASES:
        table.add_column(phase, justify="right")
    for name, row in result.memory.items():
        table.add_row(name, *(f"{row[phase] / _GIB:.2f}" if row.get(phase) else "–" for phase in PHASES))
    table.add_section()
    table.add_row("total", *(f"{value / _GIB:.2f}" for value in result.totals.values()), style="bold")
    return table


def _verdict(peak: float, limits: Limits) -> str:
    share = peak / _GIB / limits.memory_gib
    needs = f"{peak / _GIB:.1f} GiB are needed, {share:.0%} of the device's {limits.memory_gib:g} GiB"
    if share <= _USABLE:
        return f"[bold green]It fits[/bold green]: {needs}."
    if share <= 1:
        return (
            f"[bold yellow]It may not fit[/bold yellow]: {needs}; CUDA, its libraries and gaps between tensors take "
            f"about {1 - _USABLE:.0%}."
        )
    return f"[bold red]It does not fit[/bold red]: {needs}. What to change: docs/scaling.md."


def _least_time(seconds: Mapping[str, float], num_prompts: int, limits: Limits) -> str:
    total = sum(seconds.values())
    phases = " + ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    return (
        f"A step takes at least {phases} = {total:.2f} s at {limits.flops / 1e12:g} TFLOP/s and "
        f"{limits.bandwidth / 1e12:g} TB/s: at most {3600 * num_prompts / total:,.0f} prompts per hour and device."
    )
