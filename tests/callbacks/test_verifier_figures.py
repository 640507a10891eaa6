"""The same report for any verifier directory, through `main.py test`: numbers, pictures, TensorBoard."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import EXPERIMENT_TAG, parse_experiment_plugin_data

import main
from callbacks.verifier_figures import FIGURES

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SENTENCES = [
    {"text": "His voice rises and he slams the door.", "emotions": ["anger", "annoyance"]},
    {"text": "She laughs and claps her hands.", "emotions": ["joy"]},
    {"text": "He sits on a chair.", "emotions": ["neutral"]},
]


def run_stage_2(command, directory, *options):
    """Events of a run in `directory/run`."""
    sentences = directory / "sentences.jsonl"
    sentences.write_text("".join(f"{json.dumps(row)}\n" for row in SENTENCES))
    configs = [f"{ROOT}/configs/{name}.yaml" for name in ("trainer/default", "trainer/cpu", "stage/verifier")]
    configs.append(f"{ROOT}/configs/data/rationale_text.yaml")
    main.run(
        [command, *(part for config in configs for part in ("-c", config))]
        + [f"--data.{part}={sentences}" for part in ("train", "validation", "test")]
        + [f"--model.path={ROOT}/tests/golden/tiny_verifier", f"--trainer.default_root_dir={directory}/run"]
        + ["--trainer.enable_progress_bar=false", *options]
    )
    return EventAccumulator(str(directory / "run")).Reload()


def test_a_verifier_directory_is_tested_without_training(tmp_path):
    events = run_stage_2("test", tmp_path)
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert report["num_sentences"] == 3
    assert report["confusion"]["rows"] == ["anger", "annoyance", "joy", "neutral"]
    assert sum(one["num_decisions"] for one in report["calibration"]["bins"]) == 3 * 28
    for name in FIGURES:
        with Image.open(tmp_path / "run" / f"{name}.png") as image:
            # A picture with something on it: far more than one colour.
            assert image.width > 300 and len(image.convert("L").getcolors()) > 20
    assert {f"test/{name}" for name in FIGURES} <= set(events.Tags()["images"])


@pytest.mark.parametrize(("command", "part"), [("fit", "val"), ("test", "test")])
def test_its_row_of_hyperparameters_has_its_figures(command, part, tmp_path):
    events = run_stage_2(command, tmp_path, "--trainer.max_epochs=1")
    columns = parse_experiment_plugin_data(events.summary_metadata[EXPERIMENT_TAG].plugin_data.content)
    logged = {tag for tag in events.Tags()["scalars"] if tag.startswith(f"{part}/") and "/f1/" not in tag}
    assert {f"{part}/macro_f1", f"{part}/calibration_error", f"{part}/loss"} < logged
    assert logged <= {info.name.tag for info in columns.metric_infos}
