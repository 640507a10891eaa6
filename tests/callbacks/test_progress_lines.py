"""A line of progress where standard output is no terminal."""

import re

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from callbacks.progress_lines import ProgressLines, progress_line

pytestmark = pytest.mark.unit


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, index):
        self.log("loss", torch.tensor(0.25), prog_bar=True)
        return self.layer(batch).sum()

    def validation_step(self, batch, index):
        pass

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture
def trained(tmp_path):
    def run(every_seconds: float, stage: str = "fit") -> None:
        lines = ProgressLines(every_seconds)
        seconds = iter(range(10_000))
        lines.clock = lambda: next(seconds) / 2  # half a second a step
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 2}
        options |= {"enable_model_summary": False, "accelerator": "cpu", "default_root_dir": tmp_path}
        trainer = Trainer(callbacks=[lines], **options)
        loader = DataLoader(torch.zeros(6, 1))
        getattr(trainer, stage)(Module(), loader)

    return run


def test_a_training_tells_step_rate_and_losses(trained, capsys) -> None:
    trained(1.0)
    out = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train")]
    assert len(out) == 6, "every second of two steps"
    assert re.fullmatch(r"train: step 4 of 12, \d\.\d\d s(teps)?/s(tep)?, 0:0\d left, loss 0\.25", out[1]), out


def test_a_test_tells_its_batches(trained, capsys) -> None:
    trained(1.0, "test")
    assert any(line.startswith("test: step 4 of 6, ") for line in capsys.readouterr().out.splitlines())


def test_none_is_printed_in_a_terminal_or_when_switched_off(trained, capsys, monkeypatch) -> None:
    trained(0.0)
    assert "step" not in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    trained(1.0)
    assert "step" not in capsys.readouterr().out


def test_the_line_without_an_end_and_of_slow_steps() -> None:
    assert progress_line("train", 3, float("inf"), 2.0, {}) == "train: step 3, 2.00 steps/s"
    assert progress_line("train", 3, 7203, 0.5, {"a": 1}) == "train: step 3 of 7203, 2.00 s/step, 4:00:00 left, a 1"
