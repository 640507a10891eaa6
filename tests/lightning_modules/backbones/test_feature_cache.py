"""Tower outputs on disk: equal to the last bit, keyed by all that they depend on, and no harm from broken files."""

import json
import multiprocessing
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from datamodules.batch import Clip, ClipBatch, collate
from lightning_modules.backbones import interface
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.decoder_backbone import DecoderBackbone
from lightning_modules.backbones.feature_cache import FeatureCache
from lightning_modules.backbones.hf import percept as hf_percept
from lightning_modules.backbones.percept import Percept

from .conftest import Case

pytestmark = pytest.mark.unit


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(str(tmp_path / "cache"), max_gigabytes=1.0)


@pytest.fixture
def frozen(backbone: ComposedBackbone) -> ComposedBackbone:
    backbone.set_trainable([])
    return backbone


def entries(cache: FeatureCache) -> list[Path]:
    return sorted(cache.directory.glob("*/*.safetensors"))


def plain(value: Any) -> Any:
    """What towers returned, or a part of it, tensors as type, shape and bytes, to be compared with `==`."""
    if isinstance(value, Percept):
        # Not the media, which no tower makes.
        return type(value), {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name != "media"}
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return type(value), {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [plain(entry) for entry in value]
    return value


@contextmanager
def towers_run(backbone: DecoderBackbone) -> Iterator[list[int]]:
    """Sizes of the batches that the backbone is asked to perceive meanwhile."""
    seen: list[int] = []
    perceive = backbone.perceive
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(backbone, "perceive", lambda batch: seen.append(len(batch)) or perceive(batch))
        yield seen


@contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_every_backbone_perceives_once_and_gets_the_same_to_the_bit(
    case: Case, model: DecoderBackbone, clips: ClipBatch, cache: FeatureCache, load: Callable[..., DecoderBackbone]
) -> None:
    model.set_trainable(case.trained)
    expected = model.perceive(clips)
    with towers_run(model) as seen:
        first = cache.perceive(model, clips)
        second = cache.perceive(model, clips)
    assert seen == [3]
    assert plain(first) == plain(second) == plain(expected)
    with torch.no_grad():
        prompts = [model.encode(clips, percept).embeddings for percept in (second, None)]
    assert torch.equal(*prompts)
    again = load()
    again.set_trainable(case.trained)
    with towers_run(again) as seen:
        later_run = FeatureCache(str(cache.directory), 1.0).perceive(again, clips)
    assert seen == [] and plain(later_run) == plain(expected)


def test_exported_backbone_shares_its_features(
    case: Case, model: DecoderBackbone, clips: ClipBatch, cache: FeatureCache, tmp_path: Path
) -> None:
    """Stage 3 reads what stage 1 stored."""
    model.set_trainable([])
    cache.perceive(model, clips)
    model.save(tmp_path / "saved")
    exported = case.reload(tmp_path / "saved")
    exported.set_trainable([])
    with towers_run(exported) as seen:
        cache.perceive(exported, clips)
    assert seen == []


def test_bfloat16_features_of_every_backbone_come_back(
    load: Callable[..., DecoderBackbone], clips: ClipBatch, cache: FeatureCache
) -> None:
    model = load(dtype="bfloat16")
    model.set_trainable([])
    expected = model.perceive(clips)
    cache.perceive(model, clips)
    assert plain(cache.perceive(model, clips)) == plain(expected)
    assert "bfloat16" in str(plain(expected))


def test_only_clips_that_miss_are_perceived_and_order_is_kept(
    frozen: ComposedBackbone, make_clip: Callable[..., Clip], cache: FeatureCache
) -> None:
    cache.perceive(frozen, collate([make_clip(1), make_clip(3)]))
    batch = collate([make_clip(seed) for seed in (0, 1, 2, 3)])
    with towers_run(frozen) as seen:
        percept = cache.perceive(frozen, batch)
    assert seen == [2]
    expected = frozen.perceive(batch)
    torch.testing.assert_close(percept.video, expected.video, atol=1e-5, rtol=0)
    torch.testing.assert_close(percept.audio, expected.audio, atol=1e-5, rtol=0)


def test_padding_name_and_question_of_a_clip_do_not_matter(
    frozen: ComposedBackbone, make_clip: Callable[..., Clip], cache: FeatureCache
) -> None:
    cache.perceive(frozen, collate([make_clip(0)]))
    other = make_clip(0, id="other", media="other.mp4", instruction="Why?", target=None, response=None)
    with towers_run(frozen) as seen:
        cache.perceive(frozen, collate([other, make_clip(9)]))  # the second is longer
    assert seen == [1]


OTHER_CLIPS: dict[str, Callable[[Clip], dict[str, Any]]] = {
    "one pixel": lambda clip: {"frames": torch.cat([clip.frames[:1] ^ 1, clip.frames[1:]])},
    "waveform": lambda clip: {"waveform": clip.waveform * 0.5},
    "silence at the end": lambda clip: {"waveform": torch.cat([clip.waveform, torch.zeros(1)])},
    "duration": lambda clip: {"duration_seconds": 2.0},
    "mel": lambda clip: {"mel": torch.randn(40, 100)},
}


@pytest.mark.parametrize("name", OTHER_CLIPS)
def test_entry_belongs_to_all_that_towers_may_see(
    frozen: ComposedBackbone, make_clip: Callable[..., Clip], cache: FeatureCache, name: str
) -> None:
    cache.perceive(frozen, collate([make_clip(0)]))
    with towers_run(frozen) as seen:
        cache.perceive(frozen, collate([replace(make_clip(0), **OTHER_CLIPS[name](make_clip(0)))]))
    assert seen == [1]


def _other_weight(backbone: ComposedBackbone) -> None:
    with torch.no_grad():
        next(backbone.audio_tower.parameters()).view(-1)[0] += 1


def _other_tower(backbone: ComposedBackbone) -> None:
    for layer in backbone.vision_tower.encoder.layers:
        nn.init.zeros_(layer.mlp.fc2.weight)


CHANGES: dict[str, Callable[[ComposedBackbone], Any]] = {
    "one weight of the audio tower": _other_weight,
    "weights of the vision tower": _other_tower,
    "precision": lambda backbone: backbone.to(torch.bfloat16),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_towers_miss_also_within_a_run(
    frozen: ComposedBackbone, batch: ClipBatch, cache: FeatureCache, name: str
) -> None:
    before = plain(cache.perceive(frozen, batch))
    CHANGES[name](frozen)
    with towers_run(frozen) as seen:
        after = cache.perceive(frozen, batch)
        cache.perceive(frozen, batch)
    assert seen == [3]
    assert plain(after) == plain(frozen.perceive(batch)) != before


def test_changed_settings_miss(
    frozen: ComposedBackbone, tiny_models: Path, batch: ClipBatch, cache: FeatureCache
) -> None:
    cache.perceive(frozen, batch)
    parts = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
    options = {"num_frames": 2, "video_grid": 2, "audio_pool": 10}
    for change in ({}, {"video_grid": 1}, {"audio_pool": 5}, {"attn_implementation": "eager"}):
        other = ComposedBackbone(**parts, **{**options, **change})
        other.set_trainable([])
        with towers_run(other) as seen:
            cache.perceive(other, batch)
        assert seen == ([3] if change else []), change
    frozen._image_settings["image_mean"] = [0.4, 0.4, 0.4]
    with towers_run(frozen) as seen:
        FeatureCache(str(cache.directory), 1.0).perceive(frozen, batch)
    assert seen == [3]


def test_other_arithmetic_misses(frozen: ComposedBackbone, batch: ClipBatch, cache: FeatureCache) -> None:
    batch = replace(batch, mel=torch.randn(3, 40, 100))
    cache.perceive(frozen, batch)
    with towers_run(frozen) as seen, torch.autocast("cpu", torch.bfloat16):
        expected = frozen.perceive(batch)
        first, second = (cache.perceive(frozen, batch) for _ in range(2))
    assert seen == [3, 3]
    assert plain(first) == plain(second) == plain(expected)
    torch.set_default_dtype(torch.float64)
    try:
        with towers_run(frozen) as seen:
            cache.perceive(frozen, batch)
    finally:
        torch.set_default_dtype(torch.float32)
    assert seen == [3]


def test_projectors_and_language_model_may_be_trained_and_change(
    frozen: ComposedBackbone, batch: ClipBatch, cache: FeatureCache
) -> None:
    frozen.set_trainable(["vision_projector", "language_model"])
    cache.perceive(frozen, batch)
    with torch.no_grad():
        for parameter in frozen.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    with towers_run(frozen) as seen:
        percept = cache.perceive(frozen, batch)
    assert seen == []
    frozen.encode(batch, percept).embeddings.sum().backward()
    assert all(p.grad is not None for p in frozen.vision_projector.parameters())


def test_tower_in_training_is_refused(frozen: ComposedBackbone, batch: ClipBatch, cache: FeatureCache) -> None:
    frozen.set_trainable(["audio_tower", "language_model"])
    with pytest.raises(ValueError, match=r"audio_tower is trained\. Leave it out of model\.trainable"):
        cache.perceive(frozen, batch)
    assert not entries(cache)


def test_towers_run_without_dropout(frozen: ComposedBackbone, batch: ClipBatch, cache: FeatureCache) -> None:
    frozen.audio_tower.dropout = 0.5
    expected = frozen.perceive(batch)
    frozen.train()
    assert plain(cache.perceive(frozen, batch)) == plain(expected)
    assert frozen.audio_tower.training


def test_backbone_that_does_not_say_what_features_depend_on_is_refused(
    frozen: ComposedBackbone, batch: ClipBatch, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ComposedBackbone, "perception", interface.Backbone.perception)
    with pytest.raises(ValueError, match="ComposedBackbone does not say what its features depend on"):
        cache.perceive(frozen, batch)


def _with(entry: Path, change: Callable[[dict[str, Tensor], dict[str, str]], Any]) -> None:
    with safe_open(entry, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    change(tensors, metadata)
    save_file(tensors, entry, metadata)


def _flip_last_bit(entry: Path) -> None:
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)


BREAKS: dict[str, Callable[[Path], Any]] = {
    "one bit": _flip_last_bit,
    "truncated": lambda entry: entry.write_bytes(entry.read_bytes()[:-1]),
    "empty": lambda entry: entry.write_bytes(b""),
    "noise": lambda entry: entry.write_bytes(os.urandom(1000)),
    "pickle": lambda entry: entry.write_bytes(pickle.dumps({"video": 1})),
    "no checksum": lambda entry: _with(entry, lambda tensors, metadata: metadata.pop("checksum")),
    "a tensor is missing": lambda entry: _with(entry, lambda tensors, metadata: tensors.pop("audio")),
    "another shape": lambda entry: _with(entry, lambda tensors, _: tensors.update(audio=tensors["audio"].flatten())),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_broken_entry_is_replaced_with_one_warning(
    frozen: ComposedBackbone, batch: ClipBatch, cache: FeatureCache, kind: str
) -> None:
    batch = batch.rows(0, 1)
    expected = plain(cache.perceive(frozen, batch))
    (entry,) = entries(cache)
    BREAKS[kind](entry)
    message = rf"{entry}: broken cache entry of clip0\.mp4 .*the towers run again"
    with towers_run(frozen) as seen, pytest.warns(UserWarning, match=message) as caught:
        assert plain(cache.perceive(frozen, batch)) == expected
    assert seen == [1] and len(caught) == 1
    with no_warning(), towers_run(frozen) as seen:
        assert plain(cache.perceive(frozen, batch)) == expected
    assert seen == []


def test_limit_holds_and_what_is_there_stays(
    frozen: ComposedBackbone, make_clip: Callable[..., Clip], cache: FeatureCache, tmp_path: Path
) -> None:
    batch = collate([make_clip(seed) for seed in range(6)])
    cache.perceive(frozen, batch)
    size = entries(cache)[0].stat().st_size
    small = FeatureCache(str(tmp_path / "small"), max_gigabytes=3.2 * size / 1e9)
    with towers_run(frozen) as seen, no_warning():
        small.perceive(frozen, batch)
        small.perceive(frozen, batch)
    assert seen == [6, 3]
    assert len(entries(small)) == 3
    assert sum(file.stat().st_size for file in small.directory.rglob("*") if file.is_file()) <= small.max_bytes
    _other_weight(frozen)
    with towers_run(frozen) as seen:
        small.perceive(frozen, batch)
        small.perceive(frozen, batch)
    assert seen == [6, 4], "features of the former towers made room, down to half of the limit"


def _tensors(value: Any) -> list[Tensor]:
    """What towers returned, as numbers: products in another process may differ in their last bits."""
    if isinstance(value, Percept):
        value = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "media"}
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _perceive_in_process(directory: Path, backbone: ComposedBackbone, batch: ClipBatch, expected: Any) -> None:
    torch.set_num_threads(1)
    cache = FeatureCache(str(directory), 1.0)
    for _ in range(5):
        torch.testing.assert_close(_tensors(cache.perceive(backbone, batch)), expected)


def test_two_processes_share_a_directory(frozen: ComposedBackbone, batch: ClipBatch, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    expected = _tensors(frozen.perceive(batch))
    assert expected
    context = multiprocessing.get_context("fork")
    arguments = (tmp_path / "cache", frozen, batch, expected)
    processes = [context.Process(target=_perceive_in_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    cache = FeatureCache(str(tmp_path / "cache"), 1.0)
    assert len(entries(cache)) == 3
    with towers_run(frozen) as seen:
        torch.testing.assert_close(_tensors(cache.perceive(frozen, batch)), expected)
    assert seen == []


def test_cache_in_use_can_be_sent_to_another_process(
    frozen: ComposedBackbone, batch: ClipBatch, cache: FeatureCache
) -> None:
    expected = plain(cache.perceive(frozen, batch))
    assert plain(pickle.loads(pickle.dumps(cache)).perceive(frozen, batch)) == expected


@dataclass
class _OwnOutput(ModelOutput):
    hidden: Tensor | None = None


SHARED = torch.randn(2, 3)


def _recordings() -> list[Any]:
    pooled = BaseModelOutputWithPooling(SHARED, hidden_states=(SHARED, torch.randn(2, 3).bfloat16()))
    return [SHARED.t(), (SHARED, None, ()), True, False, None, torch.tensor(2.5), pooled, BaseModelOutput(SHARED)]


def test_recordings_of_transformers_keep_their_structure() -> None:
    percept = hf_percept.HFPercept([{"vision_tower": _recordings(), "audio_tower": []}, {}])
    tensors, structure = percept.pack()
    assert plain(hf_percept.HFPercept.unpack(tensors, structure)) == plain(percept)
    output = hf_percept.HFPercept.unpack(tensors, structure).recordings[0]["vision_tower"][6]
    assert type(output) is BaseModelOutputWithPooling
    assert list(output.keys()) == ["last_hidden_state", "hidden_states"]


@pytest.mark.parametrize(
    "result",
    [[SHARED], {"hidden": SHARED}, 3, _OwnOutput(SHARED), (SHARED, object())],
    ids=["list", "dict", "number", "own class", "tuple with an object"],
)
def test_other_results_of_towers_are_refused(result: Any) -> None:
    with pytest.raises(ValueError, match="The vision_tower returns a .*, which cannot be kept on disk"):
        hf_percept.HFPercept([{"vision_tower": [result]}]).pack()


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "transformers.Trainer", f"{__name__}._OwnOutput"])
def test_only_classes_of_transformers_outputs_are_rebuilt(name: str) -> None:
    structure = json.dumps([{"vision_tower": [{"output": name, "fields": {}}]}])
    with pytest.raises(KeyError):
        hf_percept.HFPercept.unpack({}, structure)
