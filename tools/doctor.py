"""`python main.py doctor`: what this machine has, and what is missing for which feature.

torch is imported only to be asked, not for `--help`, and may be missing.
"""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from json import dumps
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_modules.machine import available_memory

PACKAGES = ("erv", "torch", "lightning", "transformers", "peft", "torchmetrics", "torchcodec", "av", "jsonargparse")
"""This program, and what its runs need first."""
FEATURES: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "the page for your own clip": ("app", ("gradio", "jinja2", "starlette", "uvicorn")),
    "manifests in Parquet": ("parquet", ("pyarrow",)),
    "stage 1 on DeepSpeed": ("deepspeed", ("deepspeed",)),
    "Liger's cross-entropy": ("liger", ("liger-kernel",)),
    "optimizers that train bfloat16": ("optimizers", ("torch-optimi", "torchao")),
    "tracker/wandb": ("wandb", ("wandb",)),
    "tracker/mlflow": ("mlflow", ("alembic", "mlflow-skinny", "sqlalchemy")),
    "notebooks/": ("notebook", ("ipykernel",)),
    "comparisons of benchmarks/": ("bench", ("decord", "trl")),
    "Gemma 3n": (None, ("timm",)),
}
"""Feature → the extra of this project that brings it, if one does, and its packages."""
_GIB = 1024**3


def doctor(json: bool = False) -> dict[str, Any]:
    """Say what this machine has: versions, devices, free memory, FFmpeg, and what is missing for which feature.

    Args:
        json: print it as JSON, and nothing else, on standard output.

    Returns:
        `versions` (package → version, null where it is missing), `devices`, `free_gib`, `features` (each with the
        packages that it lacks) and `problems`, sentences on what no run can do without.
    """
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    problems = [f"{name} is not installed." for name in PACKAGES[1:] if versions[name] is None]
    torch, codec = _loaded("torch", problems), None
    if torch is not None:
        from datamodules.media import why_no_decoders

        codec = _loaded("torchcodec", problems, why_no_decoders)
    report = {
        "versions": {**versions, "ffmpeg": None if codec is None else str(codec.ffmpeg_major_version)},
        "devices": _devices(torch),
        "free_gib": _free(),
        "features": {
            name: {"extra": extra, "missing": [package for package in packages if _version(package) is None]}
            for name, (extra, packages) in FEATURES.items()
        },
        "problems": problems,
    }
    if json:
        sys.stdout.write(dumps(report, indent=2, ensure_ascii=False) + "\n")
    else:
        _print(report)
    return report


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _loaded(name: str, problems: list[str], why: Callable[[Exception], str] | None = None) -> ModuleType | None:
    """A module, or None, with a sentence among the problems where it is installed and does not load."""
    if _version(name) is None:
        return None
    try:
        return import_module(name)
    except Exception as error:  # noqa: BLE001 (whatever a broken library raises)
        problems.append(why(error) if why else f"{name} does not load: {str(error).partition(chr(10))[0]}.")
        return None


def _devices(torch: ModuleType | None) -> dict[str, Any]:
    """Cores that this process may use, and what torch sees; memory in GiB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = []
    for number in range(0 if torch is None else torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        gpus.append({"name": name, "free_gib": _in_gib(free), "total_gib": _in_gib(total)})
    return {"cpu_cores": cores, "cuda": gpus, "mps": torch is not None and torch.backends.mps.is_available()}


def _free() -> dict[str, float | None]:
    """GiB of memory, of the disk here, and of that to which the Hugging Face hub's weights are downloaded."""
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").absolute()
    there = next(path for path in (hub, *hub.parents) if path.is_dir())
    memory = available_memory()
    return {
        "memory": None if memory is None else _in_gib(memory),
        "disk": _in_gib(shutil.disk_usage(Path.cwd()).free),
        "hub_cache": _in_gib(shutil.disk_usage(there).free),
    }


def _in_gib(number: int) -> float:
    return round(number / _GIB, 1)


def _print(report: dict[str, Any]) -> None:
    devices, free = report["devices"], report["free_gib"]
    table = Table("what", "here", title="This machine")
    for name, found in report["versions"].items():
        table.add_row({"ffmpeg": "FFmpeg"}.get(name, name), found or "not found")
    table.add_section()
    table.add_row("CPU cores", str(devices["cpu_cores"]))
    for gpu in devices["cuda"]:
        table.add_row("GPU", f"{gpu['name']}, {gpu['free_gib']} of {gpu['total_gib']} GiB free")
    if not devices["cuda"]:
        table.add_row("GPU", "Apple's (MPS)" if devices["mps"] else "none")
    for name, what in (("memory", "free memory"), ("disk", "free disk here"), ("hub_cache", "free disk for the hub")):
        table.add_row(what, "unknown" if free[name] is None else f"{free[name]} GiB")
    table.add_section()
    for name, feature in report["features"].items():
        extra = f" (extra {feature['extra']})" if feature["extra"] else ""
        table.add_row(name, f"pip install {' '.join(feature['missing'])}{extra}" if feature["missing"] else "yes")
    console = Console(markup=False)
    console.print(table)
    for problem in report["problems"]:
        console.print(problem, soft_wrap=True)
