"""Cross-validation over the published folds of a corpus: `fit` and `test` per fold, then all folds together.

The field reports folds in two ways: DFEW's authors pool the predictions of all folds, MAE-DFER averages the folds'
metrics. Here are both (decision 13); they differ where folds differ in size or classes.

Every `fit` and `test` is a process of its own, as a user would start it, so that devices, memory and failures stay
apart.
"""

import argparse
import pkgutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table

from callbacks.run_files import METRICS_FILE, RUN_FILE
from datamodules.emotions import get_taxonomy
from datamodules.files.json_files import read_json_object
from datamodules.files.writing import write_json, write_text
from datamodules.files.yaml_files import read_yaml_mapping
from tools.command_line import settled
from tools.program import as_called, own_command, program
from tools.summarize import METRICS

if TYPE_CHECKING:
    from torch import Tensor

REPORT_FILE = "cross_validation.json"
CONFIG_FILE = "cross_validation.yaml"
"""What all folds of a directory are run with."""

JUDGED = ("eea", "epc", "fcr")
RATES = ("war", "uar", "uar_answered_only", *JUDGED)
SHARED = ("taxonomy", "judge", "protocol")

_DESCRIPTION = """Run the folds of a corpus, and report their metrics pooled and averaged.

Give what `fit` is given (`python main.py fit --help`). For each fold K this runs
  python main.py fit  ... --data.init_args.fold=K --trainer.default_root_dir=ROOT/fold_K
  python main.py test ... with the best checkpoint of that fit, in ROOT/fold_K/test
where ROOT is your --trainer.default_root_dir. "Best" is ModelCheckpoint's word: by its `monitor`, else the last.
A model that is not trained (configs/stage/evaluate.yaml) is only tested.

The same command again goes on where it stopped: tested folds are kept, an interrupted fit goes on from its newest
checkpoint. So folds can be run apart (--folds 1,2, then --folds 3,4,5); the command without --folds then puts them
together.

Written to ROOT: cross_validation.json (each fold; pooled over all predictions; mean and sample standard deviation over
folds) and cross_validation.yaml (the configuration that all folds share)."""
_EXAMPLE = """example:
  python main.py cross_validate -c configs/trainer/default.yaml -c configs/trainer/gpu.yaml \\
      -c configs/stage/grpo.yaml -c configs/data/dfew.yaml -c configs/backbone/composed.yaml --data.root data/DFEW \\
      --model.backbone.path runs/cold_start/model --model.verifier runs/verifier/model \\
      --trainer.default_root_dir runs/erv_folds"""


def aggregate(folds: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The metrics of all folds together. Rates are fractions in [0, 1].

    Args:
        folds: fold number → what its `metrics.json` holds.

    Returns:
        `taxonomy`, `judge`, `protocol`; `folds`, fold → `num_samples` and rates; `pooled`, the dictionary of
        `metrics.json` as if the clips of all folds had been tested at once; `mean` and `standard_deviation` of each
        rate over folds (divided by folds − 1; None for a single fold). A rate that a fold does not have is None: those
        of clips with several emotions, or without a judge.

    Raises:
        ValueError: no fold, or folds of different taxonomies, judges or protocols.
    """
    if not folds:
        raise ValueError("There is no fold to put together.")
    for name in SHARED:
        values = {fold: metrics[name] for fold, metrics in folds.items()}
        if len(set(values.values())) > 1:
            named = ", ".join(f"fold {fold}: {value}" for fold, value in values.items())
            raise ValueError(f"The folds differ in their {name} ({named}), so their metrics cannot be put together.")
    columns = {rate: [metrics[rate] for metrics in folds.values()] for rate in RATES}
    complete = {rate: values for rate, values in columns.items() if None not in values}
    return {
        **{name: next(iter(folds.values()))[name] for name in SHARED},
        "folds": {fold: {name: metrics[name] for name in ("num_samples", *RATES)} for fold, metrics in folds.items()},
        "pooled": _pool(list(folds.values())),
        "mean": dict.fromkeys(RATES) | {rate: fmean(values) for rate, values in complete.items()},
        "standard_deviation": dict.fromkeys(RATES)
        | {rate: stdev(values) for rate, values in complete.items() if len(values) > 1},
    }


def _pool(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `metrics.json` would hold had the clips of all folds been tested at once."""
    from lightning_modules.metrics.emotion_report import emotion_report

    taxonomy = get_taxonomy(folds[0]["taxonomy"])
    if any(fold["confusion_matrix"] is None for fold in folds):  # clips with several emotions: WAR only
        report = {**dict.fromkeys(folds[0]), "taxonomy": taxonomy.name, "absent_classes": [], "per_class": {}}
        report["protocol"] = folds[0]["protocol"]
        report["war"] = _pooled_rate(folds, "war")
    else:
        report = emotion_report(_counts(folds), taxonomy, None, folds[0]["protocol"])
        if all(fold["answer_by_explanation"] is not None for fold in folds):
            table = folds[0]["answer_by_explanation"]
            report["answer_by_explanation"] = {
                name: sum(fold["answer_by_explanation"][name] for fold in folds) for name in table
            }
        report |= {rate: _pooled_rate(folds, rate) for rate in JUDGED}
        for emotion, figures in report["per_class"].items():
            parts = [fold["per_class"][emotion] for fold in folds]
            figures |= {rate: _pooled_rate(parts, rate) for rate in JUDGED}
    # Whole numbers are counts of clips.
    counts = [name for name, value in folds[0].items() if isinstance(value, int)]
    return report | {"judge": folds[0]["judge"], **{name: sum(fold[name] for fold in folds) for name in counts}}


def _counts(folds: Sequence[Mapping[str, Any]]) -> "Tensor":
    """The counts K of the metrics, int64 `[C, C+1, C+1]`; what was judged is not in the files, so all is "invalid"."""
    import torch

    confusion = torch.tensor([fold["confusion_matrix"]["counts"] for fold in folds]).sum(dim=0)
    return torch.nn.functional.pad(confusion.unsqueeze(-1), (len(confusion), 0))


def _pooled_rate(parts: Sequence[Mapping[str, Any]], rate: str) -> float | None:
    """A share of the clips of all parts, exact: a share of n clips, times n, is a whole number of clips."""
    parts = [part for part in parts if part["num_samples"]]
    if not parts or any(part[rate] is None for part in parts):
        return None
    hits = sum(round(part[rate] * part["num_samples"]) for part in parts)
    return hits / sum(part["num_samples"] for part in parts)


class StageError(RuntimeError):
    """A `fit` or `test` ended with an error, which it has printed."""


@dataclass(frozen=True)
class FoldRunner:
    """Runs folds that share a configuration.

    Args:
        arguments: options of `fit`, without those that a fold sets.
        root: directory of the folds' run directories.
        trains: whether the model is trained before the test.
    """

    arguments: list[str]
    root: Path
    trains: bool

    def run(self, fold: int) -> dict[str, Any]:
        """Do what is left to do of a fold.

        Returns:
            What its `metrics.json` holds.

        Raises:
            StageError: `fit` or `test` failed; names the fold.
            FileNotFoundError: `fit` left no checkpoint.
        """
        from callbacks.checkpointing.files import best_checkpoint, newest_checkpoint

        directory = self.root / f"fold_{fold}"
        metrics = directory / "test" / METRICS_FILE
        if metrics.is_file():
            Console().print(f"Fold {fold} is tested already: {metrics}")
            return read_json_object(metrics)
        checkpoint = None
        if self.trains:
            if not _is_trained(directory):
                self._run_stage("fit", fold, directory, newest_checkpoint(directory))
            checkpoint = best_checkpoint(directory)
        self._run_stage("test", fold, directory / "test", checkpoint)
        return read_json_object(metrics)

    def _run_stage(self, command: str, fold: int, directory: Path, checkpoint: Path | None) -> None:
        place = [f"--data.init_args.fold={fold}", f"--trainer.default_root_dir={directory}"]
        place += [] if checkpoint is None else [f"--ckpt_path={checkpoint}"]
        Console().rule(f"Fold {fold}: {command}")
        status = subprocess.run([*own_command(), command, *self.arguments, *place], check=False).returncode
        if status:
            raise StageError(
                f"Fold {fold}: `{command}` ended with status {status}; its error is above, its files are in "
                f"{directory}. Finished folds are kept: the same command goes on here."
            )


def _is_trained(directory: Path) -> bool:
    record = directory / RUN_FILE
    return record.is_file() and read_json_object(record).get("stage") == "fit"


def cross_validate(arguments: list[str]) -> None:
    """Run `python main.py cross_validate`: all folds, `cross_validation.json` and a table.

    Args:
        arguments: the command line after `cross_validate`: own options and those of `fit`.

    Raises:
        StageError, FileNotFoundError, ValueError: a fold failed, or the options are wrong.
    """
    parser = parser_beside_fit("cross_validate", "--folds K,K,...", _DESCRIPTION, _EXAMPLE)
    parser.add_argument(
        "--folds", type=_fold_numbers, default="1,2,3,4,5", help="Folds to run and put together (default: %(default)s)."
    )
    options, passed_on = parser.parse_known_args(arguments)
    runner = _prepare(passed_on)
    result = aggregate({fold: runner.run(fold) for fold in options.folds})
    write_json(runner.root / REPORT_FILE, result)
    _print(result, runner.root / REPORT_FILE)


def _fold_numbers(text: str) -> list[int]:
    numbers = [int(part) if part.isdecimal() else -1 for part in text.split(",")]
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"expected different fold numbers, such as 1,2,3; got {text!r}")
    return sorted(numbers)


def parser_beside_fit(command: str, own: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser for what a command takes beside the options of `fit`; `own` names it in the usage."""
    return argparse.ArgumentParser(
        prog=f"{program()} {command}",
        usage=f"%(prog)s [{own}] -c FILE [-c FILE ...] [options of fit]",
        description=as_called(description),
        epilog=as_called(example),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )


def fit_config(arguments: list[str]) -> dict[str, Any]:
    """The whole configuration that `fit` makes of options; nothing is loaded.

    Raises:
        StageError: the options are refused.
    """
    command = [*own_command(), "fit", *arguments, "--print_config"]
    printed = subprocess.run(command, check=False, stdout=subprocess.PIPE, encoding="utf-8")
    if printed.returncode:
        raise StageError("`fit` refuses these options; its error is above.")
    return settled(yaml.safe_load(printed.stdout))


def _prepare(arguments: list[str]) -> FoldRunner:
    """Read the configuration that the folds share, and keep it beside them.

    Raises:
        StageError: the configuration is refused.
        ValueError: it cannot be cross-validated, or the directory holds folds of another one.
    """
    from lightning import LightningModule  # takes seconds, and `--help` does without

    config = fit_config(arguments)
    for part, place in (("model", "stage"), ("data", "data")):
        if not config.get(part):
            raise ValueError(f"The configuration has no {part}. Stack one of configs/{place}/*.yaml.")
    if "fold" not in config["data"]["init_args"]:
        raise ValueError(
            f"{config['data']['class_path']} has no option `fold`, so there is nothing to cross-validate over. Corpora "
            "with published folds have one, e.g. configs/data/dfew.yaml."
        )
    del config["data"]["init_args"]["fold"]
    if config["trainer"]["default_root_dir"] is None:
        raise ValueError("Where should the folds be? Give --trainer.default_root_dir DIR.")
    root = Path(config["trainer"]["default_root_dir"])
    _keep_config(root, config)
    module = pkgutil.resolve_name(config["model"]["class_path"])
    return FoldRunner(arguments, root, module.configure_optimizers is not LightningModule.configure_optimizers)


def _keep_config(root: Path, config: dict[str, Any]) -> None:
    """Write the shared configuration, or check that the folds in the directory were run with it."""
    file = root / CONFIG_FILE
    if file.is_file():
        changes = _changes(read_yaml_mapping(file), config)
        if changes:
            raise ValueError(
                f"{root} holds folds of another configuration ({'; '.join(changes[:3])}"
                f"{'; ...' if len(changes) > 3 else ''}). Go on with the one in {file}, or choose another "
                "--trainer.default_root_dir."
            )
    elif any(root.glob("fold_*")):
        raise ValueError(f"{root} has folds but no {CONFIG_FILE}. Choose another --trainer.default_root_dir.")
    else:
        write_text(file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).splitlines())


def _changes(old: Any, new: Any, name: str = "") -> list[str]:
    """What differs between two configurations, as `key: old → new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys((*old, *new)))
        return [text for key in keys for text in _changes(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))]
    return [] if old == new else [f"{name}: {old} → {new}"]


def _print(result: dict[str, Any], file: Path) -> None:
    pooled = result["pooled"]
    folds = ", ".join(map(str, result["folds"]))
    table = Table(title=f"{pooled['num_samples']} test clips of folds {folds} ({result['taxonomy']}), in percent")
    table.add_column("fold")
    for name in ("clips", *(metric.upper() for metric in METRICS)):
        table.add_column(name, justify="right")
    for fold, metrics in result["folds"].items():
        table.add_row(str(fold), str(metrics["num_samples"]), *(_percent(metrics[metric]) for metric in METRICS))
    table.add_section()
    table.add_row("pooled", str(pooled["num_samples"]), *(_percent(pooled[metric]) for metric in METRICS))
    # Two rows: "mean ± sd" in one cell would not fit five times into 80 columns.
    table.add_row("mean", "", *(_percent(result["mean"][metric]) for metric in METRICS))
    table.add_row("± sd", "", *(_percent(result["standard_deviation"][metric]) for metric in METRICS))
    console = Console()
    console.print(table)
    console.print(f"Judge: {result['judge'] or 'none'}. Results: {file}", markup=False)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"
