"""Checkpoints, weights, adapters and caches that would run code when they are unpickled."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

from callbacks.checkpointing.files import CheckpointError, resolve
from callbacks.checkpointing.run_checkpoint import RunCheckpoint
from datamodules.batch import ClipBatch
from datamodules.clip_cache import ClipCache
from datamodules.media import DecodedClip
from datamodules.media_settings import MediaSettings
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.feature_cache import FeatureCache
from lightning_modules.emotion_verifier import EmotionVerifier
from lightning_modules.judges.language_model import LanguageModelJudge
from lightning_modules.verifier import load_trainable_classifier

pytestmark = pytest.mark.unit


class Weight(LightningModule):
    """One number to train."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return (self.weight * batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(directory: Path, ckpt_path: Path | None, weights_only: bool | None) -> None:
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=directory,
        max_epochs=1 if ckpt_path is None else 2,
        callbacks=[RunCheckpoint()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Weight(), DataLoader(torch.ones(2)), ckpt_path=ckpt_path, weights_only=weights_only)


@pytest.mark.parametrize("weights_only", [True, False, None])
@pytest.mark.parametrize("place", ["state_dict", "callbacks", "optimizer_states", "hyper_parameters"])
def test_a_checkpoint_with_code_in_it_is_refused(
    tmp_path: Path, payload: object, place: str, weights_only: bool | None
) -> None:
    fit(tmp_path, None, True)
    (file,) = (tmp_path / "checkpoints").iterdir()
    content = torch.load(file, weights_only=True)
    torch.save({**content, place: {"planted": payload}}, file)
    with pytest.raises(CheckpointError, match=f"{file.name} holds more than tensors and plain values.*run any code"):
        fit(tmp_path, file, weights_only)


def test_a_directory_as_checkpoint_is_read_within_its_own_run_only(tmp_path: Path) -> None:
    """Lightning and DeepSpeed unpickle a directory's metadata whatever they are told."""
    (tmp_path / "planted.ckpt").mkdir()
    with pytest.raises(CheckpointError, match="planted.ckpt is a directory.*unpickled.*--ckpt_path last"):
        resolve(str(tmp_path / "planted.ckpt"), tmp_path / "run")
    own = tmp_path / "run" / "checkpoints" / "step=1.ckpt"
    own.mkdir(parents=True)
    assert resolve("last", tmp_path / "run") == str(own)


def write_adapter(directory: Path, payload: object) -> None:
    """An adapter in a model's directory, which transformers loads on top of the model."""
    settings = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "query"], "base_model_name_or_path": "/other"}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    torch.save({"base_model.model.weight": payload}, directory / "adapter_model.bin")


@pytest.mark.parametrize("what", ["weights", "adapter"])
def test_a_language_model_with_code_in_it_is_refused(
    tiny_models: Path, tmp_path: Path, payload: object, what: str
) -> None:
    directory = Path(shutil.copytree(tiny_models / "language_model", tmp_path / "model"))
    if what == "weights":
        (directory / "model.safetensors").unlink()
        torch.save({"lm_head.weight": payload}, directory / "pytorch_model.bin")
    else:
        write_adapter(directory, payload)
    towers = {name: str(tiny_models / name) for name in ("vision", "audio")}
    for load in (
        lambda: ComposedBackbone(**towers, language_model=str(directory)),
        lambda: LanguageModelJudge(str(directory), device="cpu"),
    ):
        with pytest.raises(ValueError, match="holds more than tensors|adapter"):
            load()


@pytest.mark.parametrize("load", [EmotionVerifier, load_trainable_classifier])
@pytest.mark.parametrize("what", ["weights", "adapter", "another model's adapter", "shard elsewhere"])
def test_a_verifier_with_code_or_weights_from_elsewhere_is_refused(
    verifier: Path, tmp_path: Path, payload: object, what: str, load: type
) -> None:
    expected = {
        "weights": "holds more than tensors",
        "adapter": "adapter",
        "another model's adapter": "has no config.json",
        "shard elsewhere": r"lacks \.\./secret.safetensors, which model.safetensors.index.json names",
    }[what]
    if what == "weights":
        (verifier / "model.safetensors").unlink()
        torch.save({"classifier.weight": payload}, verifier / "pytorch_model.bin")
    elif what == "adapter":
        write_adapter(verifier, payload)
    elif what == "another model's adapter":
        other = shutil.copytree(verifier, tmp_path / "other")
        for file in verifier.iterdir():
            if not file.name.startswith(("tokenizer", "vocab", "merges")):
                file.unlink()
        write_adapter(verifier, payload)
        settings = json.loads((verifier / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = str(other)
        (verifier / "adapter_config.json").write_text(json.dumps(settings))
    else:
        tensors = load_file(verifier / "model.safetensors")
        (verifier / "model.safetensors").unlink()
        save_file(tensors, tmp_path / "secret.safetensors", {"format": "pt"})
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "../secret.safetensors")}
        (verifier / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=expected):
        load(str(verifier))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_cached_feature_that_became_a_pickle_is_not_unpickled(
    backbone: ComposedBackbone, batch: ClipBatch, tmp_path: Path, payload: object, legacy: bool
) -> None:
    backbone.set_trainable(["language_model"])
    cache = FeatureCache(str(tmp_path / "cache"), max_gigabytes=1)
    batch = batch.rows(0, 1)
    before = cache.perceive(backbone, batch)
    (entry,) = (tmp_path / "cache").rglob("*.safetensors")
    torch.save({"video": payload}, entry, _use_new_zipfile_serialization=not legacy)
    with pytest.warns(UserWarning, match="broken cache entry of clip0.mp4.*the towers run again"):
        again = cache.perceive(backbone, batch)
    assert torch.equal(before.video, again.video)


def test_a_cached_clip_that_became_a_pickle_is_not_unpickled(tmp_path: Path, payload: object) -> None:
    settings = MediaSettings(num_frames=2, image_size=8)
    media = tmp_path / "a.mp4"
    media.touch()
    cache = ClipCache(tmp_path / "cache", 1)
    decoded = DecodedClip(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(4), True, 1.0)
    assert cache.store(media, settings, decoded)
    (entry,) = (tmp_path / "cache").rglob("*.safetensors")
    entry.write_bytes(pickle.dumps(payload))
    with pytest.warns(UserWarning, match=r"broken cache entry of .*a.mp4.*decoding the clip again"):
        assert cache.load(media, settings) is None


def test_the_payload_runs_where_it_is_unpickled(tmp_path: Path, payload: object) -> None:
    """Otherwise the tests above would show nothing."""
    torch.save({"planted": type(payload)(tmp_path / "ran")}, tmp_path / "a.bin")
    torch.load(tmp_path / "a.bin", weights_only=False)
    assert (tmp_path / "ran").exists()
