"""Stage 2: training, report, export, and where the classification head comes from."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from lightning import Trainer, seed_everything
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from callbacks.export import ExportError, _export
from datamodules.emotions import GO_EMOTIONS
from datamodules.labelled_sentences import LabelledSentence
from datamodules.rationale_text import collate_sentences
from lightning_modules.emotion_verifier import EmotionVerifier
from lightning_modules.health import NonFiniteError
from lightning_modules.verifier import VerifierModule

pytestmark = pytest.mark.e2e

TINY = Path(__file__).parents[1] / "golden/tiny_verifier"
SENTENCES = [
    LabelledSentence("His voice rises and he slams the door.", ("anger", "annoyance")),
    LabelledSentence("She laughs and claps her hands.", ("joy",)),
    LabelledSentence("The eyes are wide with terror.", ("fear",)),
    LabelledSentence("Tears run down his cheeks.", ("sadness", "grief")),
]
HEAD = "classifier.out_proj.weight"


def loader() -> DataLoader:
    return DataLoader(SENTENCES, batch_size=2, collate_fn=collate_sentences)


def trainer(tmp_path, **options) -> Trainer:
    return Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def edited_copy(directory: Path, **changes) -> Path:
    shutil.copytree(TINY, directory)
    config = json.loads((directory / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A module after 60 epochs on four sentences, and the figures on the same before and after."""
    seed_everything(0)
    path = tmp_path_factory.mktemp("run")
    start = edited_copy(path / "start", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    module = VerifierModule(str(start), learning_rate=3e-3)
    before = trainer(path).test(module, loader(), verbose=False)[0]
    trainer(path, max_epochs=60, check_val_every_n_epoch=20).fit(module, loader(), loader())
    after = trainer(path).test(module, loader(), verbose=False)[0]
    return module, before, after


def test_learns_the_sentences(trained):
    _, before, after = trained
    assert after["test/loss"] < 0.25 * before["test/loss"]
    assert after["test/macro_f1"] > 0.9 > before["test/macro_f1"]
    assert after["test/exact_match"] == 1
    assert after["test/calibration_error"] < before["test/calibration_error"]
    assert "test/f1/joy" in after
    assert "test/f1/love" not in after  # no sentence has it


def test_metrics_report_is_plain_json(trained):
    module, _, after = trained
    report = module.metrics_report()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["num_sentences"] == 4
    assert report["macro_f1"] == pytest.approx(after["test/macro_f1"], abs=1e-6)
    assert report["per_label"]["joy"]["f1"] == pytest.approx(after["test/f1/joy"], abs=1e-6)


def test_a_test_says_at_which_threshold(trained, tmp_path, capsys):
    module, _, after = trained
    trainer(tmp_path).test(module, loader(), verbose=False)
    assert f"Macro F1 is {after['test/macro_f1']:.3f} at the reward's threshold of 0.1" in capsys.readouterr().out


def test_exported_directory_is_the_same_verifier(trained, tmp_path):
    module, _, _ = trained
    module.export(tmp_path / "verifier")
    verifier = EmotionVerifier(str(tmp_path / "verifier"), taxonomy="mafw")
    texts = [sentence.text for sentence in SENTENCES]
    module.eval()
    with torch.no_grad():
        expected = module(texts).sigmoid()
    torch.testing.assert_close(verifier.probabilities(texts), expected, rtol=0, atol=1e-6)
    assert verifier.labels == GO_EMOTIONS
    assert sorted(path.suffix for path in (tmp_path / "verifier").glob("model*")) == [".safetensors"]


def test_trains_with_dropout_and_in_every_part(tmp_path):
    module = VerifierModule(str(TINY), learning_rate=3e-3)
    start = {name: parameter.clone() for name, parameter in module.model.named_parameters()}
    modes = []
    module.model.register_forward_pre_hook(lambda model, _: modes.append(model.training))
    trainer(tmp_path, max_steps=3, max_epochs=-1).fit(module, loader())
    assert modes == [True] * 3
    still = [name for name, parameter in module.model.named_parameters() if torch.equal(parameter, start[name])]
    assert still == []


def test_learning_rate_rises_and_falls(tmp_path):
    module = VerifierModule(str(TINY), learning_rate=1e-3, weight_decay=0.1, warmup_ratio=0.5)
    rates = []
    run = trainer(tmp_path, max_epochs=2)  # 4 steps
    module.on_train_batch_end = lambda *_: rates.append(run.optimizers[0].param_groups[0]["lr"])
    run.fit(module, loader())
    assert rates == pytest.approx([5e-4, 1e-3, 5e-4, 0])
    decayed, plain = run.optimizers[0].param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0)
    assert all(parameter.ndim < 2 for parameter in plain["params"])


def test_endless_training_is_refused(tmp_path):
    with pytest.raises(ValueError, match="set trainer.max_steps or trainer.max_epochs"):
        trainer(tmp_path, max_epochs=-1).fit(VerifierModule(str(TINY)), loader())


def test_a_goemotions_head_is_kept():
    weights = load_file(TINY / "model.safetensors")
    model = VerifierModule(str(TINY)).model
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())


def test_other_labels_get_a_new_head(tmp_path, caplog):
    names = [*GO_EMOTIONS[1:], GO_EMOTIONS[0]]  # as many labels, in another order
    path = edited_copy(
        tmp_path / "rotated",
        id2label={str(i): name for i, name in enumerate(names)},
        label2id={name: i for i, name in enumerate(names)},
    )
    weights = load_file(TINY / "model.safetensors")
    model = VerifierModule(str(path)).model
    assert "a new, random head is trained" in caplog.text
    assert not torch.equal(model.state_dict()[HEAD], weights[HEAD])
    word = "roberta.embeddings.word_embeddings.weight"
    assert torch.equal(model.state_dict()[word], weights[word])
    assert tuple(model.config.id2label.values()) == GO_EMOTIONS


def test_a_head_that_nobody_trained_is_not_tested(tmp_path):
    names = {"id2label": {"0": "good", "1": "bad"}, "label2id": {"good": 0, "bad": 1}}
    weights = load_file(TINY / "model.safetensors")
    path = edited_copy(tmp_path / "encoder", **names)
    body = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier.")}
    save_file(body, path / "model.safetensors", metadata={"format": "pt"})
    module = VerifierModule(str(path))
    with pytest.raises(ValueError, match="no head for GoEmotions' 28 labels"):
        trainer(tmp_path).test(module, loader(), verbose=False)
    trainer(tmp_path, max_steps=1, max_epochs=-1).fit(module, loader())
    assert trainer(tmp_path).test(module, loader(), verbose=False)
    run = trainer(tmp_path, max_steps=1, max_epochs=-1)
    run.fit(module, loader())
    run.save_checkpoint(tmp_path / "trained.ckpt")
    fresh = VerifierModule(str(path))
    assert trainer(tmp_path).test(
        fresh, loader(), ckpt_path=tmp_path / "trained.ckpt", weights_only=True, verbose=False
    )


def test_an_encoder_or_a_smaller_classifier_gets_a_new_head(tmp_path):
    weights = load_file(TINY / "model.safetensors")
    names = {"id2label": {"0": "good", "1": "bad"}, "label2id": {"good": 0, "bad": 1}}
    small = edited_copy(tmp_path / "small", **names)
    head = {HEAD: weights[HEAD][:2].clone(), "classifier.out_proj.bias": torch.zeros(2)}
    save_file(weights | head, small / "model.safetensors", metadata={"format": "pt"})
    encoder = edited_copy(tmp_path / "encoder", **names)
    body = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier.")}
    save_file(body, encoder / "model.safetensors", metadata={"format": "pt"})
    for path in (small, encoder):
        model = VerifierModule(str(path)).model
        assert model.state_dict()[HEAD].shape == (28, 32)
        assert model.state_dict()[HEAD].abs().sum() > 0


@pytest.mark.parametrize("bad", [{"learning_rate": 0}, {"weight_decay": -1}, {"warmup_ratio": 2}, {"max_tokens": 0}])
def test_numbers_out_of_range(bad):
    with pytest.raises(ValueError, match="Expected learning_rate > 0"):
        VerifierModule(str(TINY), **bad)


def test_there_is_no_report_before_a_test():
    with pytest.raises(ValueError, match="Run `test` first"):
        VerifierModule(str(TINY)).metrics_report()


@pytest.mark.parametrize("learning_rate", [1e20, 1e38])
def test_training_that_diverges_stops(tmp_path, learning_rate):
    module = VerifierModule(str(TINY), learning_rate=learning_rate, warmup_ratio=0.0)
    with pytest.raises(NonFiniteError, match=r"gradient's norm is (nan|inf) at step \d+.*Lower model.learning_rate"):
        trainer(tmp_path, max_epochs=20).fit(module, loader())


def test_a_rate_without_an_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="model.learning_rate is inf"):
        trainer(tmp_path, max_epochs=1).fit(VerifierModule(str(TINY), learning_rate=float("inf")), loader())


def test_broken_weights_are_neither_exported_nor_loaded(tmp_path):
    module = VerifierModule(str(TINY))
    with torch.no_grad():
        next(module.model.parameters())[0, 0] = torch.nan
    with pytest.raises(ExportError, match="weights are not finite"):
        _export(module, tmp_path / "model", {})
    assert not list(tmp_path.iterdir())
    module.export(tmp_path / "broken")
    with pytest.raises(ValueError, match=r"broken has 1 weights that are not finite numbers"):
        EmotionVerifier(str(tmp_path / "broken"))
