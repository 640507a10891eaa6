"""What `doctor` says of this machine, of one without torch and of one without FFmpeg."""

import importlib
import json
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import main
from tools import doctor as tool
from tools.doctor import FEATURES, doctor

pytestmark = pytest.mark.unit

ROOT = Path(main.__file__).parent


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["problems"] == [] and report["versions"]["torch"] == metadata.version("torch")
    assert int(report["versions"]["ffmpeg"]) in range(4, 9) and report["devices"]["cpu_cores"] >= 1
    assert min(free for free in report["free_gib"].values() if free is not None) > 0
    main.run(["doctor"])
    assert f"│ {metadata.version('torch')} " in capsys.readouterr().out


def without(*packages: str):
    def version(package: str) -> str:
        if package in packages:
            raise metadata.PackageNotFoundError(package)
        return "1.0"

    return version


def test_a_machine_without_torch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tool, "version", without("torch", "torchao"))
    report = doctor()
    assert report["problems"] == ["torch is not installed."]
    assert report["versions"]["torch"] is None and report["devices"]["cuda"] == []
    assert report["features"]["optimizers that train bfloat16"] == {"extra": "optimizers", "missing": ["torchao"]}
    printed = capsys.readouterr().out
    assert "torch is not installed." in printed and "pip install torchao (extra optimizers)" in printed


def test_a_machine_without_ffmpeg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)  # its import fails
    (problem,) = doctor()["problems"]
    assert "apt-get install ffmpeg" in problem
    assert "apt-get install ffmpeg" in " ".join(capsys.readouterr().out.split())


def test_a_python_without_its_shared_library(monkeypatch: pytest.MonkeyPatch) -> None:
    python = "libpython{}.{}".format(*sys.version_info)

    def torchcodec(name: str) -> ModuleType:
        if name == "torchcodec":
            raise RuntimeError(f"Could not load libtorchcodec.\n{python}.so.1.0: cannot open shared object file")
        return importlib.import_module(name)

    monkeypatch.setattr(tool, "import_module", torchcodec)
    (problem,) = doctor()["problems"]
    assert f"`apt-get install {python}`" in problem and "ffmpeg" not in problem


def test_gpus_and_no_place_for_weights_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cuda = SimpleNamespace(
        device_count=lambda: 2, mem_get_info=lambda i: (i * 1024**3, 80 * 1024**3), get_device_name=lambda i: f"GPU {i}"
    )
    backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, backends=backends))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "not" / "yet"))
    report = doctor()
    assert report["devices"]["cuda"][1] == {"name": "GPU 1", "free_gib": 1.0, "total_gib": 80.0}
    assert report["free_gib"]["hub_cache"] > 0


def test_features_are_those_of_the_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra: list(packages) for extra, packages in FEATURES.values() if extra}
    assert named == {extra: packages for extra, packages in extras.items() if extra != "test"}
