"""`python main.py study`: run a study's jobs, then put its arms side by side."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from datamodules.files.writing import require_directory, write_json, write_text
from lightning_modules.metrics.intervals import LEVEL, RATES, Interval
from tools.command_line import settled
from tools.compare.forest_plot import draw_forest
from tools.program import program
from tools.study.curves import draw_curves, read_curves
from tools.study.figures import Arms, Design, Difference, as_json, compare_arms, design, read_test, read_truths, spread
from tools.study.page import write_page
from tools.study.plan import Plan, Study, choose, make_plan, read_study
from tools.study.records import Records
from tools.study.runner import Pool, Run, StudyError, commands
from tools.study.screen import StudyScreen
from tools.study.tables import differences_table, heading, means_table

SHOWN = (*RATES, "grounded", "grounded_fcr")
"""Figures of the tables, beside the study's own; `study.json` has all."""

_PANELS = 3
"""Beside each other in a picture."""

_DESCRIPTION = """Run the commands of a study, per seed and arm, in a pool of processes, and compare the arms.

The same command again goes on where it was stopped: what is done is kept, a training goes on from its last checkpoint.
Written to the output: the jobs' folders, jobs/ (logs, records), commands.sh, study.json, study.md and study.html."""

_DESIGNS: dict[Design, str] = {
    "one seed": "One seed: intervals are the clips' alone, as those of `compare`, and say nothing of another training.",
    "own clips": "Every seed has clips of its own: intervals are Student's t over the seeds' paired differences, which "
    "hold both, seeds and clips.",
    "shared clips": "All seeds test on the same clips: intervals hold the variance of both, seeds and clips (two-way "
    "random effects, Satterthwaite).",
}


def run_study(arguments: list[str]) -> None:
    """Run `python main.py study`.

    Args:
        arguments: the command line after `study`.

    Raises:
        StudyError: jobs failed; all else is done and written.
        OSError, ValueError: the study or its output cannot be used; nothing is run.
        SystemExit: it was interrupted.
    """
    options = argparse.Namespace(**settled(vars(_parser().parse_args(arguments))))
    if options.num_workers < 0:
        raise ValueError(
            f"--num_workers is {options.num_workers}. Expected a number of jobs, or 0 to leave it to the CPUs."
        )
    study = choose(read_study(options.config), options.seeds, options.arms)
    output = Path(options.output or f"runs/{Path(options.config).stem}")
    require_directory(str(output), "the study")
    plan = make_plan(study, output)
    records = Records(output)
    console = Console()
    workers = options.num_workers or len(options.devices) or max((os.cpu_count() or 1) // study.threads, 1)
    console.print(
        f"Jobs: {len(plan.jobs)} (arms: {len(study.arms)}, seeds: {len(study.seeds)}), {workers} at a time. "
        f"{output}/commands.sh lists them, {output}/jobs has their logs.",
        markup=False,
        soft_wrap=True,
    )
    try:
        with StudyScreen(records, len(plan.jobs), console) as screen:
            runs = Pool(records, workers, options.devices).run(plan, options.changed == "rerun", screen)
    except KeyboardInterrupt:
        console.print("Stopped, with all its jobs. The same command goes on from here.")
        raise SystemExit(130) from None
    report(study, plan, runs, Path(options.config).stem, console)
    if failed := [run.job.folder for run in runs.values() if run.status == "failed"]:
        left_out = sum(run.status == "left out" for run in runs.values())
        raise StudyError(
            f"{len(failed)} of {len(runs)} jobs failed ({', '.join(failed[:5])}{', ...' if len(failed) > 5 else ''}), "
            f"and {left_out} that need them were left out. Their logs are in {output}/jobs; the same command tries "
            "them again."
        )


def report(study: Study, plan: Plan, runs: Mapping[str, Run], title: str, console: Console) -> None:
    """Print and write the figures of what is done.

    Args:
        study: of the plan.
        plan: that was run.
        runs: folder → how its job ended.
        title: of the page.
        console: to print to.
    """
    arms = _tests(study, plan, runs)
    if not any(arms.values()):
        return
    kind = design(arms)
    figures = _columns(arms, study)
    differences = {name: compare_arms(arms, name, kind) for name in study.baselines if arms[name]}
    missing = {name: len(study.seeds) - len(tests) for name, tests in arms.items()}
    tables = [means_table(arms, figures, missing)]
    tables += [differences_table(name, own, figures) for name, own in differences.items() if own]
    notes = _notes(arms, kind, differences)
    write_json(plan.output / "study.json", _as_json(study, arms, kind, differences, runs))
    lines = [line for table in tables for line in table.markdown()]
    write_text(plan.output / "study.md", [f"# {title}", "", *(f"{note}\n" for note in notes), *lines])
    pictures = _pictures(study, plan, runs, differences, figures)
    write_page(plan.output / "study.html", title, notes, tables, pictures, commands(plan))
    for table in tables:
        table.show(console)
    for note in notes:
        console.print(note, markup=False, highlight=False)
    console.print(f"Written: {plan.output}/study.json, study.md and study.html", markup=False, soft_wrap=True)


def _tests(study: Study, plan: Plan, runs: Mapping[str, Run]) -> Arms:
    truths = read_truths(plan.truths)
    return {
        arm: {
            seed: read_test(plan.output / folder, truths.get(seed), study.figures)
            for seed in study.seeds
            if runs[folder := plan.folders[arm, seed][study.result]].status == "done"
        }
        for arm in study.arms
    }


def _columns(arms: Arms, study: Study) -> list[str]:
    known = {name for tests in arms.values() for own in tests.values() for name in own.figures}
    return [name for name in (*SHOWN, *study.figures) if name in known]


def _notes(arms: Arms, kind: Design, differences: Mapping[str, object]) -> list[str]:
    tests = [own for seeds in arms.values() for own in seeds.values()]
    clips = sorted({len(own.clips) for own in tests})
    judges = sorted({str(own.judge) for own in tests})
    notes = [f"{'/'.join(map(str, clips))} test clips per seed; judge: {', '.join(judges)}."]
    if len(judges) > 1:
        notes.append("Arms have different judges: differences of EEA, EPC and FCR may be the judges'.")
    if differences:
        notes.append(f"{_DESIGNS[kind]} * excludes 0; p is adjusted over the arms of a column by Holm's method.")
    return notes


def _as_json(
    study: Study,
    arms: Arms,
    kind: Design,
    differences: Mapping[str, Mapping[str, Mapping[str, Difference]]],
    runs: Mapping[str, Run],
) -> dict[str, object]:
    def summary(name: str) -> dict[str, object]:
        tests = arms[name]
        figures = dict.fromkeys(figure for own in tests.values() for figure in own.figures)
        spreads = {figure: spread([own.figures.get(figure) for own in tests.values()]) for figure in figures}
        return {
            "judge": next((own.judge for own in tests.values()), None),
            "num_clips": {str(seed): len(own.clips) for seed, own in tests.items()},
            "seeds": {str(seed): dict(own.figures) for seed, own in tests.items()},
            "mean": {figure: mean for figure, (mean, _) in spreads.items()},
            "standard_deviation": {figure: deviation for figure, (_, deviation) in spreads.items()},
        }

    return {
        "seeds": list(study.seeds),
        "design": kind,
        "level": LEVEL,
        "arms": {name: summary(name) for name in arms},
        "differences": {
            baseline: {arm: {figure: as_json(one) for figure, one in own.items()} for arm, own in others.items()}
            for baseline, others in differences.items()
        },
        "jobs": {
            folder: {"status": run.status, "seconds": None if run.seconds is None else round(run.seconds, 1)}
            for folder, run in runs.items()
        },
    }


def _pictures(
    study: Study,
    plan: Plan,
    runs: Mapping[str, Run],
    differences: Mapping[str, Mapping[str, Mapping[str, Difference]]],
    figures: Sequence[str],
) -> dict[str, Path]:
    pictures = {}
    panels: dict[str, dict[str, dict[str, Interval]]] = {
        heading(figure): {
            baseline: {arm: own[figure].difference for arm, own in others.items() if figure in own}
            for baseline, others in differences.items()
        }
        for figure in figures
        if any(figure in own for others in differences.values() for own in others.values())
    }
    for first in range(0, len(panels), _PANELS):
        names = list(panels)[first : first + _PANELS]
        file = plan.output / f"differences_{first // _PANELS + 1}.png"
        title = "Percentage points, 95 % interval; filled: excludes 0.\nColour: the arm that is subtracted"
        draw_forest({name: panels[name] for name in names}, title, file)
        pictures[f"Differences of {', '.join(names)}"] = file
    for job, tags in study.curves.items():
        folders = {arm: [plan.folders[arm, seed].get(job) for seed in study.seeds] for arm in study.arms}
        done = {arm: [own for own in names if own and runs[own].status == "done"] for arm, names in folders.items()}
        curves = {arm: [read_curves(plan.output / own, tags) for own in names] for arm, names in done.items()}
        file = plan.output / f"curves_{job.replace('/', '_')}.png"
        if draw_curves(curves, tags, file):
            pictures[f"Training of {job}: mean, least and greatest over seeds"] = file
    return pictures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{program()} study",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("-c", "--config", required=True, help="YAML file of the study (docs/study.md).")
    parser.add_argument("--output", help="folder of the study (default: runs/ and the file's name).")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the file's.")
    parser.add_argument("--arms", nargs="+", help="of the file; all if not given.")
    parser.add_argument("--num_workers", type=int, default=0, help="jobs at a time (default: CPUs / threads of a job).")
    parser.add_argument(
        "--devices", type=int, nargs="+", default=[], help="numbers of the GPUs that workers share out; a worker each."
    )
    parser.add_argument(
        "--changed",
        choices=("refuse", "rerun"),
        default="refuse",
        help="what to do with a job whose command or configuration has changed since it was run (default: refuse).",
    )
    return parser
