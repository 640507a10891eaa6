"""A trained model with its card: written, copied, pushed to a hub on this machine, and loaded by plain transformers."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    SiglipVisionModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import main
from callbacks.model_card import TRAINING_FILE, _training_of, model_card
from datamodules.files.writing import write_rows
from tests.hub_server import HubServer
from tools.export import export

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
BASE = ["-c", "trainer/default", "-c", "stage/cold_start", "-c", "data/emer", "-c", "backbone/composed"]


@pytest.fixture(scope="module")
def model(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a step of stage 1 with adapters exports."""
    run = tmp_path_factory.mktemp("run") / "tried"
    main.run(["synthesize", "--layout", "emer", "--output", str(run.parent / "emer"), "--num_clips", "10"])
    parts = [f"--model.backbone.{part}={tiny_models}/{part}" for part in ("vision", "audio", "language_model")]
    sizes = ["--model.backbone.num_frames=2", "--model.backbone.video_grid=2", "--model.backbone.audio_pool=10"]
    media = ["--data.media.num_frames=2", "--data.media.image_size=32", "--data.media.mel=null"]
    options = ["--model.backbone.lora.rank=2", "--trainer.max_steps=1", "--trainer.enable_progress_bar=false"]
    options += [f"--data.root={run.parent}/emer", f"--trainer.default_root_dir={run}", "--trainer.accelerator=cpu"]
    options += ["--trainer.limit_val_batches=0", "--data.batch_size=2", "--model.learning_rate=0.1"]
    main.run(["fit", *BASE, *parts, *sizes, *media, *options])
    return run / "model"


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    common = {"target": "anger", "format": 1.0, "explanation": 1.0, "sentences": [], "judged": "anger"}
    common |= {"judge": "a-judge", "taxonomy": "dfew", "dataset": "DFEW"}
    answers = ("fear", "anger", "anger", "anger")
    rows = [
        {"id": str(i), "prediction": answer, "accuracy": float(answer == "anger"), **common}
        for i, answer in enumerate(answers)
    ]
    write_rows(tmp_path / "predictions.jsonl", rows)
    return tmp_path / "predictions.jsonl"


def read_card(directory: Path) -> tuple[dict, str]:
    _, metadata, text = (directory / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_every_export_has_a_card(model: Path, tiny_models: Path) -> None:
    metadata, text = read_card(model)
    assert metadata["pipeline_tag"] == "video-text-to-text" and "model-index" not in metadata
    assert "# tried" in text and "**stage 1, supervised cold start" in text and "optimizer steps 1, on EMER" in text
    assert "adapters of the language model only" in text and "learning_rate 0.1" in text
    assert "base_model" not in metadata
    configs = [path.read_text() for path in model.rglob("*") if path.suffix in (".md", ".json")]
    assert not any(str(home) in config for config in configs for home in (model.parent.parent, tiny_models))
    facts = json.loads((model / TRAINING_FILE).read_text())
    assert facts["class"] == "ComposedBackbone" and facts["adapters"] and facts["base_training"] is None


def test_a_card_names_the_base_without_its_revision(model: Path) -> None:
    facts = json.loads((model / TRAINING_FILE).read_text()) | {"base": {"path": "some/model@refs/pr/70"}}
    metadata, text = model_card("tried", facts).split("---\n", 2)[1:]
    assert yaml.safe_load(metadata)["base_model"] == ["some/model"] and "some/model@refs/pr/70" in text


def test_plain_transformers_and_peft_load_it_part_by_part(model: Path, tiny_models: Path) -> None:
    frames = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    pixels = AutoImageProcessor.from_pretrained(model / "vision", backend="pil")(list(frames), return_tensors="pt")
    assert SiglipVisionModel.from_pretrained(model / "vision")(**pixels).last_hidden_state.isfinite().all()
    assert AutoFeatureExtractor.from_pretrained(model / "audio").sampling_rate == 16_000
    _, report = WhisperEncoder.from_pretrained(model / "audio", output_loading_info=True)
    assert not report["missing_keys"]
    tokenizer = AutoTokenizer.from_pretrained(model / "language_model")
    ids = tokenizer("He frowns.", return_tensors="pt")
    merged = AutoModelForCausalLM.from_pretrained(model / "language_model")(**ids).logits
    base = AutoModelForCausalLM.from_pretrained(tiny_models / "language_model")
    before = base(**ids).logits
    adapted = PeftModel.from_pretrained(base, model / "adapter")(**ids).logits
    torch.testing.assert_close(adapted, merged, atol=1e-4, rtol=0)
    assert (merged - before).abs().max() > 1e-3, "the step changed something"


def test_a_second_stage_names_the_first_and_its_figures(model: Path, predictions: Path, tmp_path: Path) -> None:
    facts = json.loads((model / TRAINING_FILE).read_text())
    second = {**facts, "stage": "grpo", "base_training": facts, "base": {"language_model": "/home/me/x/model"}}
    other = tmp_path / "second/model"
    other.mkdir(parents=True)
    (other / TRAINING_FILE).write_text(json.dumps(second | {"corpora": ["DFEW"]}))
    export(str(other), [str(predictions)], name="ours", output=str(tmp_path / "copy"))
    metadata, text = read_card(tmp_path / "copy")
    assert text.index("stage 1, supervised") < text.index("stage 3, GRPO")
    assert "Judge: a-judge; 95 % intervals over clips" in text
    assert "| DFEW | 4 | 0.750 (0.301 to 0.954) |" in text
    (index,) = metadata["model-index"]
    measured = {own["metrics"][0]["type"]: own["metrics"][0]["value"] for own in index["results"]} | {
        metric["type"]: metric["value"] for own in index["results"] for metric in own["metrics"]
    }
    assert (index["name"], measured["war"], measured["fcr"]) == ("ours", 0.75, 0.75)
    with pytest.raises(ValueError, match="copy is there already"):
        export(str(other), output=str(tmp_path / "copy"))
    with pytest.raises(ValueError, match=r"second/model/more/copy is within .*second/model"):
        export(str(other), output=str(other / "more/copy"))
    (other / TRAINING_FILE).write_text(json.dumps(facts | {"stage": "verifier"}))
    with pytest.raises(ValueError, match=r"is a verifier, which makes no predictions of clips"):
        export(str(other), [str(predictions)])
    (other / TRAINING_FILE).write_text(json.dumps({"epochs": 3}))
    with pytest.raises(ValueError, match=r"training\.json: stage is null\. Expected what `fit` exports"):
        export(str(other))
    with pytest.raises(FileNotFoundError, match=r"has no training.json: expected what `fit` exports"):
        export(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"There is no directory {tmp_path}/none. Expected what `fit` exports"):
        export(str(tmp_path / "none"))


def test_text_from_outside_stays_text(model: Path, predictions: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    write_rows(predictions, [row | {"dataset": "A|B`\n---\n# x", "judge": "j:/home/me/x/y\n\n# y"} for row in rows])
    facts = json.loads((model / TRAINING_FILE).read_text())
    own = {"corpora": ["<b>|\n# c"], "base": {"language_model": "lab/x`\n# z"}, "taxonomy": "…/a/own.yaml"}
    (tmp_path / TRAINING_FILE).write_text(json.dumps(facts | own))
    export(str(tmp_path), [str(predictions)], name="t: `\n---\n# t")
    metadata, text = read_card(tmp_path)
    assert metadata["license"] == "other" and metadata["model-index"][0]["name"].startswith("t: `")
    headings = [line for line in text.splitlines() if line.startswith("# ")]
    assert len(headings) == 1 and "---" not in text.splitlines() and "<b>" not in text and "/home" not in text
    (row,) = (line for line in text.splitlines() if line.startswith("| A"))
    assert row.replace("\\|", "").count("|") == 8, "no cell more than there are columns"


def test_a_base_with_another_program_s_facts_is_a_base_without(tmp_path: Path) -> None:
    (tmp_path / TRAINING_FILE).write_text('{"epochs": 3}')
    assert _training_of([str(tmp_path)]) is None


def test_it_is_pushed_whole_and_private(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        export(str(model), push="lab/erv-tiny")
        (pushed,) = hub.repositories.values()
        assert hub.private == {"lab/erv-tiny": True}
        files = {str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*") if path.is_file()}
        assert {name: content for name, content in pushed.items() if name != ".gitattributes"} == files
        assert b"# erv-tiny" in pushed["README.md"]
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(
            ValueError, match=r"lab/other cannot be pushed to http.* a token with the right to write"
        ) as error:
            export(str(model), push="lab/other")
        assert "hf_wrong" not in str(error.value)
