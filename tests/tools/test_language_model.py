"""`python main.py language_model`: the language model alone, whose head is its own."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import main
from lightning_modules.backbones.composed import ComposedBackbone

pytestmark = pytest.mark.e2e


def test_what_is_written_is_the_policys_language_model(
    backbone: ComposedBackbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone.save(tmp_path / "model")
    assert main.main(["language_model", f"--path={tmp_path / 'model'}", f"--output={tmp_path / 'served'}"]) == 0
    assert f"vllm serve {tmp_path / 'served'}" in capsys.readouterr().out
    assert json.loads((tmp_path / "served/config.json").read_text())["tie_word_embeddings"] is False
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "served", dtype=torch.float32)
    tokens = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(served(tokens).logits, backbone.language_model(tokens).logits)
