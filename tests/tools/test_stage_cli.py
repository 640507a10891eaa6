"""The callbacks of every run: one of each, configured by options, by YAML, or replaced."""

from collections import Counter
from pathlib import Path

import pytest

import main
from callbacks.export import ExportCallback
from callbacks.inspection.callback import InspectionCallback
from tools.stage_cli import EVERY_RUN, num_devices

pytestmark = pytest.mark.unit

ROOT = Path(main.__file__).parent
STAGE = [f"--config={ROOT}/configs/{name}.yaml" for name in ("trainer/cpu", "stage/verifier", "data/rationale_text")]


class OwnExport(ExportCallback):
    """A user's."""


@pytest.fixture
def callbacks(tmp_path: Path, tiny_models: Path):
    def build(*options: str) -> list:
        run = [f"--model.path={tiny_models}/verifier", "--data.train=x.jsonl", f"--trainer.default_root_dir={tmp_path}"]
        return main.build_stage("fit", [*STAGE, *run, "--trainer.logger=false", *options]).trainer.callbacks

    return build


def of_every_run(callbacks: list) -> Counter[str]:
    return Counter(own.__name__ for own in EVERY_RUN.values() for callback in callbacks if isinstance(callback, own))


def test_every_run_has_one_of_each(callbacks) -> None:
    assert of_every_run(callbacks()) == Counter(own.__name__ for own in EVERY_RUN.values())


def test_options_and_yaml_configure_them(callbacks, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("inspection:\n  num_clips: 3\nexport: {directory: policy}\n")
    built = callbacks(f"--config={tmp_path}/own.yaml", "--inspection.every_n_steps=5")
    (inspection,) = (own for own in built if isinstance(own, InspectionCallback))
    (export,) = (own for own in built if isinstance(own, ExportCallback))
    assert (inspection.every_n_steps, inspection.num_clips, export.directory) == (5, 3, "policy")


@pytest.mark.parametrize("callback", ["callbacks.export.ExportCallback", f"{OwnExport.__module__}.OwnExport"])
def test_one_that_is_named_takes_the_place_of_the_default(callbacks, tmp_path: Path, callback: str) -> None:
    named = f"{{class_path: {callback}, init_args: {{directory: mine}}}}"
    (tmp_path / "own.yaml").write_text(f"trainer:\n  callbacks+:\n    - {named}\n")
    built = callbacks(f"--config={tmp_path}/own.yaml")
    assert of_every_run(built) == Counter(own.__name__ for own in EVERY_RUN.values())
    (export,) = (own for own in built if isinstance(own, ExportCallback))
    assert export.directory == "mine" and f"{type(export).__module__}.{type(export).__name__}" == callback


def test_a_bare_trainer_has_only_the_budget_of_bad_clips(callbacks) -> None:
    built = callbacks(f"--config={ROOT}/configs/trainer/default.yaml", "--trainer.barebones=true")
    assert of_every_run(built) == {"BadClipBudget": 1}


@pytest.mark.unit
@pytest.mark.parametrize(
    ("devices", "expected"), [(1, 1), ("3", 3), ([0, 2], 2), ("0,1,5", 3), ("auto", 4), (-1, 4), ("-1", 4)]
)
def test_how_many_processes_share_a_node(devices: object, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert num_devices(devices) == expected
