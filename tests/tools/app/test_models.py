"""Which class opens a directory, and what the app says where it cannot begin."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.hf.backbone import HFBackbone
from lightning_modules.backbones.humanomni.backbone import HumanOmniBackbone
from tools.app.app import app
from tools.app.models import _class_of, names_of, open_backbone, trained_taxonomy

pytestmark = pytest.mark.unit

HUMANOMNI = Path(__file__).parents[2] / "golden" / "humanomni_small"


def test_the_directory_tells_the_class(untrained: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    for directory, own in ((untrained, ComposedBackbone), (HUMANOMNI, HumanOmniBackbone), (tmp_path, HFBackbone)):
        assert _class_of(str(directory)) == f"{own.__module__}.{own.__name__}"


def test_a_run_is_not_its_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path} has no config.json: give {tmp_path}/model"):
        open_backbone(str(tmp_path), None, None)
    with pytest.raises(ValueError, match="there is no directory 'runs/nowhere/model'"):
        open_backbone("runs/nowhere/model", None, None)


def test_a_configuration_brings_class_and_settings(untrained: Path, tmp_path: Path) -> None:
    arguments = {"vision": "some/hub", "recipes": {"grpo": {"trainable": ["language_model"], "learning_rate": 1e-6}}}
    own = {"class_path": "lightning_modules.backbones.composed.ComposedBackbone", "init_args": arguments}
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"model": {"init_args": {"backbone": own}}}))
    backbone = open_backbone(str(untrained), str(file), "bfloat16")
    assert isinstance(backbone, ComposedBackbone) and not backbone.training
    assert next(backbone.language_model.parameters()).dtype.itemsize == 2
    with pytest.raises(ValueError, match=r"stage/grpo.* has no model.init_args.backbone"):
        open_backbone(str(untrained), "stage/grpo", None)


def test_the_export_tells_the_classes(untrained: Path, tmp_path: Path) -> None:
    assert trained_taxonomy(None) is None and trained_taxonomy("some/hub") is None
    (tmp_path / "training.json").write_text(json.dumps({"taxonomy": "meld"}))
    assert trained_taxonomy(str(tmp_path)) == "meld"


def test_models_are_called_by_their_runs() -> None:
    assert names_of(["runs/a/model", "Qwen/Qwen2.5-Omni-3B"]) == ["a", "Qwen2.5-Omni-3B"]
    assert names_of(["x/a/model", "y/a/model"]) == ["x/a/model", "y/a/model"]


def test_without_a_model_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="Give --model, .*or run `make demo` first"):
        app()


def test_a_port_that_is_taken(untrained: Path) -> None:
    with pytest.raises(ValueError, match="port 65536.*another --port"):
        app(model=str(untrained), port=65536)


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match="pip install gradio"):
        app()
