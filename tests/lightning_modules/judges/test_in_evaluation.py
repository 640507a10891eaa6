"""A judge behind an endpoint in `test`: asked batch by batch, reported at the end."""

import pytest
from lightning import Trainer
from torch.utils.data import DataLoader

from datamodules.batch import collate
from lightning_modules.backbones.interface import Sampling
from lightning_modules.judges import EndpointJudge
from lightning_modules.policy import PolicyModule
from tests.chat_server import Answer, ChatServer

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore:UAR leaves out classes")]


def test_metrics_are_those_of_the_replies(backbone, make_clip, tmp_path, monkeypatch, capsys):
    completion = "<think>He smiles.</think><answer>happy</answer>"
    monkeypatch.setattr(backbone, "texts", lambda completions: [completion] * len(completions.token_ids))
    batches = [collate([make_clip(2 * i, target="happiness"), make_clip(2 * i + 1)]) for i in range(2)]
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False)
    with ChatServer(lambda number, request: Answer("Happy.")) as server:
        judge = EndpointJudge(server.url, "m", cache=str(tmp_path / "replies.jsonl"))
        module = PolicyModule(backbone, "dfew", judge=judge, evaluation=Sampling(max_new_tokens=2))
        trainer.test(module, DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch), verbose=False)
    metrics = module.metrics_report()
    assert (metrics["judge"], metrics["num_samples"], metrics["judge_failures"]) == ("endpoint:m", 4, 0)
    # Answer and rationale are happy, and so is every second target.
    assert (metrics["eea"], metrics["epc"], metrics["fcr"]) == (0.5, 1.0, 0.5)
    assert len(server.requests) == 1
    assert "endpoint:m: 4 rationales judged, 0 invalid. 1 replies asked for, 1 from" in capsys.readouterr().out
