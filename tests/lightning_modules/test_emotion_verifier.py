"""The frozen verifier: golden probabilities, precision, batching, and directories that are no verifier."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from datamodules.emotions import DFEW_TAXONOMY, GO_EMOTIONS, MAFW_TAXONOMY
from lightning_modules.emotion_verifier import EmotionVerifier, label_mask, label_sets
from lightning_modules.verifier import VerifierModule

pytestmark = pytest.mark.numerics

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = GOLDEN / "tiny_verifier"
OUTPUTS = json.loads((GOLDEN / "rewards/verifier_outputs.json").read_text(encoding="utf-8"))
SENTENCES = list(OUTPUTS)


@pytest.fixture(scope="module")
def verifier() -> EmotionVerifier:
    return EmotionVerifier(str(TINY))


def edited_copy(directory: Path, **changes) -> str:
    """A copy of the tiny verifier with changes to its config.json."""
    shutil.copytree(TINY, directory)
    config = json.loads((directory / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)


def test_golden_probabilities_and_label_sets(verifier):
    probabilities = verifier.probabilities(SENTENCES)
    assert probabilities.dtype == torch.float32
    expected = torch.tensor([OUTPUTS[sentence]["probs"] for sentence in SENTENCES])
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-5)
    for reading in verifier.read(SENTENCES):
        golden = {GO_EMOTIONS[i] for i in OUTPUTS[reading.text]["label_set"]}
        assert set(reading.emotions) == golden, reading.text
        own = [reading.probabilities[GO_EMOTIONS.index(emotion)] for emotion in reading.emotions]
        assert own == sorted(own, reverse=True)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.05, 0.09, 0.02], [1]),  # none above the threshold: the most probable
        ([0.05, 0.10, 0.02], [1]),
        ([0.11, 0.10, 0.02], [0]),  # 0.10 is not above the threshold
        ([0.11, 0.30, 0.02], [1, 0]),
        ([0.11, 0.30, 0.50], [2, 1]),  # three: the two most probable
    ],
)
def test_label_set_rule(probabilities, expected):
    row = torch.tensor([probabilities])
    assert label_sets(row) == [expected]
    assert label_mask(row).nonzero()[:, 1].tolist() == sorted(expected)


def test_repeated_sentences_are_run_once_in_length_order(verifier, monkeypatch):
    shapes = []
    forward = verifier.model.forward
    monkeypatch.setattr(
        verifier.model, "forward", lambda **inputs: shapes.append(inputs["input_ids"].shape) or forward(**inputs)
    )
    monkeypatch.setattr(verifier, "batch_size", 2)
    short, long = "He smiles.", "She looks at the floor and does not say a word to him."
    probabilities = verifier.probabilities([long, short, long, "Why?", long])
    assert sum(shape[0] for shape in shapes) == 3
    assert shapes[0][1] < shapes[1][1]
    assert torch.equal(probabilities[0], probabilities[4])
    torch.testing.assert_close(probabilities[1], verifier.probabilities([short])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "read"), [(EmotionVerifier, EmotionVerifier.probabilities), (VerifierModule, VerifierModule.forward)]
)
def test_special_tokens_in_a_sentence_are_text(kind, read):
    owner = kind(str(TINY))
    special = set(owner.tokenizer.all_special_ids)
    seen = []
    owner.model.register_forward_pre_hook(lambda module, _, given: seen.append(given["input_ids"]), with_kwargs=True)
    for sentence in ("He smiles.", f"He {' and '.join(owner.tokenizer.all_special_tokens)} smiles."):
        read(owner, [sentence])
    plain, spelt = ([token for token in ids[0].tolist() if token in special] for ids in seen)
    assert plain == spelt == owner.tokenizer("")["input_ids"], "those around a sentence, no other"


def test_nothing_to_read(verifier):
    assert verifier.probabilities([]).shape == (0, 28)
    assert verifier.read_groups([[], []]) == [[], []]


def test_groups_come_back_in_order(verifier):
    groups = verifier.read_groups([["He smiles."], [], ["Why?", "He smiles."]])
    assert [[reading.text for reading in group] for group in groups] == [["He smiles."], [], ["Why?", "He smiles."]]


@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.double()])
def test_casts_of_the_enclosing_module_do_not_reach_it(cast):
    verifier = EmotionVerifier(str(TINY))
    before = {name: tensor.clone() for name, tensor in verifier.state_dict().items()}
    expected = verifier.probabilities(SENTENCES[:20])
    parent = nn.ModuleDict({"policy": nn.Linear(2, 2), "verifier": verifier})
    dtype = cast(parent)["policy"].weight.dtype
    parent.train()
    assert dtype != torch.float32  # the cast did happen
    assert all(torch.equal(before[name], tensor) for name, tensor in verifier.state_dict().items())
    assert not any(child.training for child in verifier.modules())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(verifier.probabilities(SENTENCES[:20]), expected)


def test_follows_to_another_device():
    parent = nn.ModuleDict({"verifier": EmotionVerifier(str(TINY))}).to("meta")
    assert {p.device.type for p in parent.parameters()} == {"meta"}


def test_full_precision_is_restored_after_reading(verifier):
    torch.set_float32_matmul_precision("medium")
    try:
        verifier.probabilities(["He smiles."])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_stays_frozen(verifier):
    verifier.requires_grad_(True)
    assert not any(parameter.requires_grad for parameter in verifier.parameters())
    assert not verifier.probabilities(["He smiles."]).requires_grad


def test_long_sentences_are_cut_at_the_models_positions(tmp_path, verifier):
    path = edited_copy(tmp_path / "short", max_position_embeddings=18)
    weights = load_file(TINY / "model.safetensors")
    key = "roberta.embeddings.position_embeddings.weight"
    save_file(weights | {key: weights[key][:18].contiguous()}, f"{path}/model.safetensors", metadata={"format": "pt"})
    short = EmotionVerifier(path)
    assert short.max_tokens == 16  # RoBERTa's positions begin behind the padding index, 1
    assert short.probabilities(["He smiles at her. " * 30]).isfinite().all()
    assert verifier.probabilities(["He smiles at her. " * 300]).isfinite().all()


def test_missing_labels_are_listed(tmp_path):
    names = {str(i): ("mirth" if name == "joy" else name) for i, name in enumerate(GO_EMOTIONS)}
    names[str(GO_EMOTIONS.index("grief"))] = "mourning"
    path = edited_copy(tmp_path / "renamed", id2label=names, label2id={name: int(i) for i, name in names.items()})
    verifier = EmotionVerifier(path)
    with pytest.raises(ValueError, match=r"lacks labels that dfew needs: joy\. It has: .*mirth"):
        verifier.require(DFEW_TAXONOMY)
    with pytest.raises(ValueError, match="lacks labels that mafw needs: joy, grief"):
        EmotionVerifier(path, taxonomy="mafw")


def test_all_labels_are_there(verifier):
    verifier.require(MAFW_TAXONOMY)
    assert verifier.labels == GO_EMOTIONS


def test_a_checkpoint_without_a_head_is_refused(tmp_path):
    path = edited_copy(tmp_path / "encoder")
    weights = {k: v for k, v in load_file(TINY / "model.safetensors").items() if not k.startswith("classifier.")}
    save_file(weights, f"{path}/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not a trained sequence classifier.*classifier.dense.weight"):
        EmotionVerifier(path)


def test_missing_directory_says_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match="nowhere: there is no such directory. Expected a Hugging Face directory"):
        EmotionVerifier(str(tmp_path / "nowhere"))
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match=f"has no config.json: give {tmp_path}/model"):
        EmotionVerifier(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path):
    path = edited_copy(tmp_path / "pickled")
    torch.save(load_file(TINY / "model.safetensors"), f"{path}/pytorch_model.bin")
    Path(path, "model.safetensors").unlink()
    with pytest.raises(ValueError, match="Cannot load a text classifier"):
        EmotionVerifier(path)
