"""Model directories that bring code, or have a tokenizer, processor or chat template of their own do something."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.hf.backbone import HFBackbone
from lightning_modules.emotion_verifier import EmotionVerifier
from lightning_modules.judges.language_model import LanguageModelJudge
from lightning_modules.verifier import load_trainable_classifier
from tests.tiny_checkpoints import write_tiny_checkpoint

pytestmark = pytest.mark.unit

_SETTINGS = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
_CLASSES = (
    "AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForMultimodalLM", "AutoModelForSequenceClassification",
    "AutoImageProcessor", "AutoFeatureExtractor", "AutoProcessor", "AutoVideoProcessor",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers may ask at the keyboard whether to run code; a yes may be waiting there."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))


def plant(directory: Path, mark: Path, **changes: str) -> str:
    """Have every settings file of a model name classes in a file beside it, as remote code is shipped."""
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Evil: ...\ndef generate(**_): ...\n"
    (directory / "evil.py").write_text(code)
    (directory / "custom_generate").mkdir()
    (directory / "custom_generate" / "generate.py").write_text(code)
    for file in (directory / name for name in _SETTINGS):
        settings = json.loads(file.read_text()) if file.is_file() else {}
        settings["auto_map"] = dict.fromkeys(_CLASSES, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
        settings |= changes if file.name == "config.json" else {}
        if settings.keys() > {"auto_map"} or file.name == "processor_config.json":
            file.write_text(json.dumps(settings))
    return str(directory)


@pytest.mark.parametrize("load", [EmotionVerifier, load_trainable_classifier])
def test_code_of_a_verifier_is_not_run(verifier: Path, mark: Path, load: Callable[[str], object]) -> None:
    load(plant(verifier, mark))


@pytest.mark.parametrize("load", [EmotionVerifier, load_trainable_classifier])
def test_a_verifier_that_needs_its_own_code_is_refused(
    verifier: Path, mark: Path, load: Callable[[str], object]
) -> None:
    with pytest.raises(ValueError, match=r"Cannot load a text classifier from .*custom code"):
        load(plant(verifier, mark, model_type="evil"))


def test_a_verifier_whose_tokenizer_needs_its_own_code_is_refused_or_read_without_it(
    verifier: Path, mark: Path
) -> None:
    directory = plant(verifier, mark)
    settings = json.loads((verifier / "tokenizer_config.json").read_text())
    (verifier / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "Evil"}))
    EmotionVerifier(directory).read(["He smiles."])


def test_code_of_a_composed_model_is_not_run(tiny_models: Path, mark: Path, tmp_path: Path) -> None:
    parts = {}
    for name in ("vision", "audio", "language_model"):
        directory = Path(shutil.copytree(tiny_models / name, tmp_path / name))
        parts[name] = plant(directory, mark)
    ComposedBackbone(**parts)
    (replies,) = LanguageModelJudge(parts["language_model"], max_new_tokens=2, device="cpu").ask(["Which?"])
    assert isinstance(replies[1], str)


def test_a_language_model_that_needs_its_own_code_is_refused(tiny_models: Path, mark: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_models / "language_model", tmp_path / "model"))
    with pytest.raises(ValueError, match=r"model_type 'evil', expected"):
        LanguageModelJudge(plant(directory, mark, model_type="evil"), device="cpu")


@pytest.mark.parametrize("model_type", ["internvl", "qwen2_5_omni"])
def test_code_of_a_multimodal_model_is_not_run(tmp_path: Path, mark: Path, model_type: str) -> None:
    """One whose own processor prepares clips, and one that hears."""
    directory = write_tiny_checkpoint(model_type, tmp_path / "model", ["Which emotion?"])
    HFBackbone(plant(directory, mark), num_frames=2, image_size=48)


def test_a_composed_directory_names_sizes_and_nothing_else(tiny_models: Path, mark: Path, tmp_path: Path) -> None:
    """Its `backbone.json` is a download, as its weights are: no class and no path in it counts."""
    parts = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
    ComposedBackbone(**parts, num_frames=2).save(tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "backbone.json").read_text())
    planted = {"class_path": "os.system", "init_args": {"command": f"touch {mark}"}, "language_model": "/etc"}
    (tmp_path / "model" / "backbone.json").write_text(json.dumps({**settings, **planted}))
    assert ComposedBackbone(path=str(tmp_path / "model")).num_frames == 2


@pytest.mark.parametrize(
    "template",
    [
        "{{{{ cycler.__init__.__globals__.os.system('touch {mark}') }}}}",
        "{{{{ ''.__class__.__base__.__subclasses__() }}}}",
        "{{% for i in range(10000000) %}}{{% endfor %}}",
    ],
)
def test_a_chat_template_stays_in_its_sandbox(tiny_models: Path, mark: Path, tmp_path: Path, template: str) -> None:
    directory = Path(shutil.copytree(tiny_models / "language_model", tmp_path / "model"))
    (directory / "chat_template.jinja").write_text(template.format(mark=mark))
    judge = LanguageModelJudge(str(directory), device="cpu")
    with pytest.raises(ValueError, match=r"chat template of .*model .*: (SecurityError|OverflowError)"):
        list(judge.ask(["Which?"]))
