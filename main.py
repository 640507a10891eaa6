"""Command line: train, evaluate and inspect models that explain emotions (`python main.py --help`)."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from io import TextIOWrapper
from itertools import chain, pairwise
from json import dumps
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Union, get_args, get_origin

from datamodules.files.config_files import with_config_files
from datamodules.files.printable import is_unicode, readable_name
from tools.program import as_called, program

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

STAGES = {
    "fit": "train: stage 1 (cold start), stage 2 (verifier) or stage 3 (GRPO), by configuration",
    "validate": "evaluate on the validation part of the training split",
    "test": "evaluate on the test split: predictions.jsonl, metrics.json",
    "predict": "explain clips: predictions.jsonl",
}
TOOLS = {
    "synthesize": ("datamodules.synthetic.synthesize:synthesize", "generate clips with label files in a real layout"),
    "inspect_data": (
        "datamodules.inspection.inspect_data:inspect_data",
        "check a corpus before training: counts, files, decoding, overlaps; a contact sheet",
    ),
    "tiny": ("lightning_modules.backbones.tiny:write_tiny_models", "write tiny random-weight models to learn with"),
    "score": ("tools.score:score", "score anyone's completions: rows.jsonl, metrics.json"),
    "compare": (
        "tools.compare.compare:compare",
        "compare prediction files clip by clip: differences, intervals, tests",
    ),
    "alarms": (
        "tools.alarm_table:alarms",
        "signs of reward hacking in prediction files: a table, alarms.json",
    ),
    "report": ("tools.report.report:report", "what the model says, clip by clip: one HTML file"),
    "label_sentences": (
        "tools.label_sentences.label_sentences:label_sentences",
        "give the sentences of rationales their emotions: training data for stage 2",
    ),
    "verifier_effect": (
        "tools.verifier_effect:verifier_effect",
        "how often another reading of the verifier's labels would change rewards",
    ),
    "judge": ("tools.judge:judge_predictions", "have a judge read the rationales of a prediction file"),
    "agreement": ("tools.agreement:agreement", "compare two judges of the same rationales: Cohen's kappa"),
    "judges": ("tools.judge_table:judges", "the metrics of runs by several judges, side by side"),
    "rate": ("tools.rating.rating:rate", "a page on which people rate rationales, blind to which run wrote them"),
    "app": ("tools.app.app:app", "a page on which models explain your own clip while you watch them write"),
    "language_model": (
        "tools.language_model:write_language_model",
        "write a policy's language model alone, for vLLM servers to sample with",
    ),
    "export": ("tools.export:export", "a trained model with its card: to a directory, or to the Hugging Face hub"),
    "replay": ("tools.replay.replay:replay", "recompute a step whose loss or gradient was not a finite number"),
    "summarize": ("tools.summarize:summarize", "compare finished runs: a table, summary.json, a bar chart"),
    "doctor": ("tools.doctor:doctor", "what this machine has: versions, devices, memory, FFmpeg, optional packages"),
}
DEBUG = "--debug"
_NOT_SET_UP = (
    "This Python has no package {!r}. Use the environment that `make setup` makes: `source .venv/bin/activate`, or "
    "`.venv/bin/python main.py ...`."
)
CONFIGS = "configs"
CROSS_VALIDATE = "cross_validate"
ESTIMATE = "estimate"
STUDY = "study"

CONFIG_HINT = """Stages are configured by stacked YAML files; what comes later wins:
  python main.py fit -c stage/cold_start -c backbone/composed -c data/emer
  python main.py predict -c backbone/humanomni --data Clips --data.path my_clips/
  python main.py fit -c ... --print_config     show the whole configuration
  python main.py fit --help                    every trainer option
  python main.py fit --model.help GRPOModule   every option of a class
  python main.py score --help                  every option of a tool
  python main.py COMMAND ... --debug           where an error was raised"""


def usage() -> str:
    """The top-level help; needs no heavy import."""
    of_stages = {
        CROSS_VALIDATE: "fit and test the folds of a corpus: pooled and averaged metrics",
        ESTIMATE: "memory, checkpoint size and least time of stage 3, before it is run",
        STUDY: "run arms and seeds of commands in a pool of processes: one table, one page",
        CONFIGS: "list the YAML files that -c knows by name, or print one",
    }
    commands = {**STAGES, **of_stages, **{name: text for name, (_, text) in TOOLS.items()}}
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {text}" for name, text in commands.items()]
    return as_called("\n".join(["usage: python main.py COMMAND [options]", "", "commands:", *lines, "", CONFIG_HINT]))


def import_corpora() -> None:
    """Import the corpora of clips: an imported class can be named without its module, e.g. `--data DFEW`."""
    modules = "clips cremad dfew emer iemocap joint mafw manifest meld mer merr ravdess"
    for module in modules.split():
        import_module(f"datamodules.{module}")


def spell_out(function: Callable[..., object], arguments: list[str]) -> list[str]:
    """The arguments as the parser reads them.

    `--list a b` becomes `--list+=a --list+=b`; `--mapping a=x b=y`, of texts, `--mapping={"a": "x", "b": "y"}`; and
    `--flag`, `--flag=true`. The parser takes each in one argument only (`--list '[a, b]'`, `--mapping '{a: x}'`),
    which stays as it is.
    """
    hints = [(name, parameter.annotation) for name, parameter in signature(function).parameters.items()]
    unions = [(name, get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)) for name, hint in hints]
    lists = {f"--{name}" for name, kinds in unions if list in map(get_origin, kinds)}
    mappings = {f"--{name}" for name, kinds in unions if dict[str, str] in kinds}
    flags = {f"--{name}" for name, hint in hints if hint is bool}
    spelled, option = [], ""
    named: dict[str, dict[str, str]] = {}
    halves = (each.split("=", 1) if each.partition("=")[0] in mappings else [each] for each in arguments)
    for argument, following in pairwise([*chain.from_iterable(halves), "--"]):
        if argument.startswith("-"):
            is_spread = argument in lists | mappings and not following.startswith(("-", "[", "{"))
            option = argument if is_spread else ""
            is_bare = argument in flags and following.startswith("-")
            spelled += [] if is_spread else [f"{argument}=true" if is_bare else argument]
        elif option in mappings:
            name, _, value = argument.partition("=")
            before = named.setdefault(option, {})
            if not (name and value) or name in before:
                raise ValueError(
                    f"{option} got {argument!r}. Expected NAME=VALUE, several if you like, each with a name of its own."
                )
            before[name] = value
            spelled += [f"{option}={dumps(before, ensure_ascii=False)}"] if following.startswith("-") else []
        else:
            spelled.append(f"{option}+={argument}" if option else argument)
    return spelled


def run_tool(name: str, arguments: list[str]) -> None:
    """Run an offline tool; its options are its function's parameters, also from YAML (`-c`)."""
    from jsonargparse import ActionConfigFile, ArgumentParser

    from tools.command_line import read_strictly, settled

    module, function_name = TOOLS[name][0].split(":")
    function = getattr(import_module(module), function_name)
    if "data" in signature(function).parameters:
        import_corpora()
    parser = ArgumentParser(
        prog=f"{program()} {name}", description=TOOLS[name][1], exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file with options; may be repeated.")
    is_about_file = "file" in signature(function).parameters  # which then needs no option
    parser.add_function_arguments(function, as_group=False, as_positional=is_about_file)
    read_strictly(arguments)
    config = parser.instantiate(settled(parser.parse_args(spell_out(function, arguments))))
    config.pop("config")
    function(**config)


def build_stage(command: str, arguments: list[str]) -> "LightningCLI":
    """Parse a Trainer command and instantiate its parts: classes by `class_path`, values by YAML or option.

    One parser serves all four commands, so that `${trainer.default_root_dir}` means the same in each.
    """
    from lightning import LightningModule

    from callbacks.config_parser import SecretKeepingParser
    from callbacks.saved_config import SavedConfig
    from tools.command_line import read_strictly
    from tools.stage_cli import StageCLI, name_classes_first

    read_strictly(arguments)
    import_corpora()
    for module in ("datamodules.rationale_text", "callbacks.rl"):
        import_module(module)
    for stage in ("cold_start", "verifier", "grpo"):
        import_module(f"lightning_modules.{stage}")
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec")  # of Lightning
    # Of other products, twice in each run.
    tips = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    tips.addFilter(lambda record: "💡 Tip" not in record.getMessage())
    # Meant: sampling and scoring run without dropout, and frozen parts stay in eval mode.
    warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training")
    return StageCLI(
        LightningModule,
        run=False,
        subclass_mode_model=True,
        args=name_classes_first(command, arguments),
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_callback=SavedConfig,
        parser_class=SecretKeepingParser,
        parser_kwargs={
            "parser_mode": "omegaconf+",
            "exit_on_error": False,
            "allow_abbrev": False,
            "prog": f"{program()} {command}",
            "description": f"{command}: {STAGES[command]}",
        },
    )


def run_stage(command: str, arguments: list[str]) -> None:
    """Run a Trainer command."""
    from callbacks.checkpointing.files import resolve
    from callbacks.run_directory import own_run_directory
    from lightning_modules.trainable_policy import TrainablePolicyModule

    cli = build_stage(command, arguments)
    # Predictions are written batch by batch: the Trainer need not keep them.
    options = {"return_predictions": False} if command == "predict" else {}
    if isinstance(cli.model, TrainablePolicyModule):
        cli.model.checkpoint_mismatch = cli.config.checkpoint_mismatch
    run = Path(cli.trainer.default_root_dir)
    writes = cli.trainer.is_global_zero and not cli.trainer.fast_dev_run
    with own_run_directory(run) if writes else nullcontext():
        # A checkpoint may come from a download, and must not be able to run code.
        getattr(cli.trainer, command)(
            cli.model,
            datamodule=cli.datamodule,
            ckpt_path=resolve(cli.config.ckpt_path, run, may_start=command == "fit"),
            weights_only=True,
            **options,
        )


def wait_briefly() -> None:
    """Have OpenMP's threads sleep after about 50 µs of waiting for each other in a busy loop; what the user sets stays.

    By default it is 3 ms, which costs a busy machine several times the work; to sleep at once costs a quiet one
    (benchmarks/busy_machine.py). GNU's OpenMP, of PyTorch's Linux builds, reads it when torch is imported; children
    inherit it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def _is_set_up() -> bool:
    """Whether this Python has what every command needs."""
    return all(find_spec(package) for package in ("jsonargparse", "lightning", "torch", "transformers"))


def run(arguments: list[str]) -> None:
    """Run a command line; its errors go to the caller."""
    for argument in arguments:
        if not is_unicode(argument):
            raise ValueError(
                f"{readable_name(argument)}: these bytes are no UTF-8, and options are text. Rename the folder, or "
                "name one above it: what lies below may be called as it is."
            )
    command, *options = with_config_files(arguments)
    if command in TOOLS:
        run_tool(command, options)
    elif command in STAGES:
        run_stage(command, options)
    elif command == CROSS_VALIDATE:
        from tools.cross_validation import cross_validate

        cross_validate(options)
    elif command == ESTIMATE:
        from tools.estimate.command import run_estimate

        run_estimate(options)
    elif command == STUDY:
        from tools.study.command import run_study

        run_study(options)
    elif command == CONFIGS:
        from tools.configs import run_configs

        run_configs(options)
    else:
        raise ValueError(f"There is no command {command!r}. `python main.py --help` lists them.")


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit status.

    That is 2 after an error that its user can mend, said in one sentence, and 1 after any other, shown with its place.
    """
    wait_briefly()
    # The bars of loading and writing a few megabytes say nothing; training and decoding have their own.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    arguments = sys.argv[1:] if arguments is None else arguments
    shows_places, arguments = DEBUG in arguments, [argument for argument in arguments if argument != DEBUG]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # no name of a file keeps a table from being printed
    try:
        run(arguments)
    except Exception as error:  # noqa: BLE001 (shown, whatever it is)
        if isinstance(error, ModuleNotFoundError) and not _is_set_up():
            print(f"error: {_NOT_SET_UP.format(error.name)}", file=sys.stderr)
            return 2
        from tools.command_line import is_meant_to_be_read, one_sentence, whole_story

        is_meant = is_meant_to_be_read(error)
        if shows_places or not is_meant:
            print(whole_story(error), file=sys.stderr)
        if is_meant:
            print(f"error: {one_sentence(error, arguments[0])}", file=sys.stderr)
        return 2 if is_meant else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
