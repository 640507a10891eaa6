"""`python main.py replay`: recompute a step whose loss or gradient was not finite, and say where that begins.

torch is imported only to recompute, not for `--help`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from callbacks.run_files import CONFIG_FILE
from lightning_modules.judges.base import find_device

if TYPE_CHECKING:
    from lightning_modules.step_record import StepPlace, StepRecord
    from tools.replay.recompute import Part, Recomputation

_NUM_TEXTS = 3  # completions with a finding that are printed


def replay(file: str, ckpt_path: str | None = None, device: str = "auto") -> "Recomputation":
    """Recompute a training step that a run saved because its loss or gradient was not finite.

    Reads the run's config.yaml, two directories above the step's file, as `fit` would, so that its relative paths start
    at the same working directory; needs no corpus. Prints each clip's or completion's share of loss and gradient, and
    what of it first is not finite.

    Args:
        file: the step, `non_finite/step=N.safetensors` of a run directory.
        ckpt_path: checkpoint with the weights before the step; by default those that were saved with it, else the
            newest checkpoint of the run.
        device: where to compute, e.g. `cpu` or `cuda:1`; `auto` is a GPU if there is one.

    Returns:
        What is printed.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the file is no step, or belongs to another model than the run's.
    """
    from lightning_modules.step_record import StepRecord
    from tools.replay.recompute import recompute
    from tools.replay.restore import find_weights, load_module, load_weights, make_trainer

    record, run = StepRecord.read(Path(file)), Path(file).absolute().parents[1]
    module = load_module(run / CONFIG_FILE)
    if record.place.stage != module.stage:
        raise ValueError(f"The step is one of stage {record.place.stage!r}, {run / CONFIG_FILE} of {module.stage!r}.")
    checkpoint = find_weights(record.place, run) if ckpt_path is None else Path(ckpt_path)
    weights_step = load_weights(module, checkpoint)
    where = find_device(device)
    trainer = make_trainer(where, record.place.precision)
    plugin = trainer.precision_plugin
    plugin.convert_module(module).to(where)
    if module.automatic_optimization:
        module.on_train_start()  # stage 1 trains with dropout
    result = recompute(module, record, plugin)
    _print(record, result, checkpoint, weights_step, str(trainer.precision))
    return result


def _print(record: "StepRecord", result: "Recomputation", checkpoint: Path, weights_step: int, precision: str) -> None:
    place, console = record.place, Console()
    batches = ", ".join(map(str, place.batch_indices))
    of = f", process {place.rank} of {place.num_processes}" if place.num_processes > 1 else ""
    console.print(
        f"Step {place.step} of {place.stage}: epoch {place.epoch}, batch {batches}{of}. Precision {precision}."
    )
    console.print(f"Weights after {weights_step} steps: {checkpoint}", markup=False, soft_wrap=True)
    console.print(_table(result.parts, is_grouped=record.rollout is not None))
    if result.broken_weights:
        names = ", ".join(result.broken_weights[:5]) + (" …" if len(result.broken_weights) > 5 else "")
        console.print(f"Weights that are not finite: {len(result.broken_weights)}, {names}", markup=False)
    for part in [part for part in result.parts if part.findings][:_NUM_TEXTS]:
        console.print(f"{_name(part)}: {part.text!r}", markup=False)
    # Those of stage 3 are shares of one loss; those of stage 1 are each a batch's own.
    losses = [sum(place.losses)] if record.rollout is not None else place.losses
    recorded = ", ".join(f"{loss:.6g}" for loss in losses)
    console.print(
        f"Recorded: loss {recorded}, gradient norm {place.gradient_norm:.6g}. "
        f"Now: loss {result.loss:.6g}, gradient norm {result.gradient_norm:.6g}."
    )
    console.print(_verdict(place, result, weights_step, precision))


def _table(parts: "list[Part]", is_grouped: bool) -> Table:
    table = Table(title="Shares of the step, each computed alone")
    for name in ("clip", *(["completion"] if is_grouped else []), "tokens", "loss", "gradient norm"):
        table.add_column(name, justify="left" if name == "clip" else "right", overflow="fold")
    table.add_column("not finite, in the order of the computation", overflow="fold")
    for part in parts:
        cells: list[Any] = [escape(part.clip), *([part.completion] if is_grouped else []), part.num_tokens]
        cells += [f"{part.loss:.4g}", f"{part.gradient_norm:.4g}", escape(" → ".join(part.findings)) or "–"]
        table.add_row(*map(str, cells), style="red" if part.findings else None)
    return table


def _name(part: "Part") -> str:
    return part.clip if part.completion is None else f"{part.clip}, completion {part.completion}"


def _verdict(place: "StepPlace", result: "Recomputation", weights_step: int, precision: str) -> str:
    if not result.is_finite:
        first = next((part for part in result.parts if part.findings), None)
        if first is None:
            return "Reproduced, by the sum alone: each part is finite, and together they overflow."
        return f"Reproduced. First: {escape(_name(first))}: {escape(first.findings[0])}."
    reasons = []
    if weights_step != place.step:
        reasons.append(f"the weights are those after {weights_step} steps, not {place.step}")
    if precision != place.precision:
        reasons.append(f"the precision is {precision}, not {place.precision}")
    if place.num_processes > 1:
        reasons.append("it may be another process' clips: replay the other files of the step, too")
    if place.stage == "cold_start":
        reasons.append("dropout, if there is any, is drawn anew for each part")
    return f"Not reproduced: all is finite here. {'; '.join(reasons).capitalize()}{'.' if reasons else ''}"
