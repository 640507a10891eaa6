"""A backbone as `fit` would build it, without its weights: from the settings of its checkpoint, on the meta device.

Only `config.json`, the tokenizer and the preprocessing settings are needed; no tensor is read, drawn or stored.

Shape legend: T frames, I image size, P prompt positions.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, RobertaConfig

from datamodules.batch import SAMPLE_RATE, Clip, collate
from datamodules.clip_source import INSTRUCTION
from lightning_modules.backbones import loading, published_adapter
from lightning_modules.backbones.decoder_backbone import DecoderBackbone
from lightning_modules.backbones.hf.backbone import HFBackbone
from lightning_modules.backbones.hf.family import ClipInput
from lightning_modules.backbones.humanomni import checkpoint
from lightning_modules.backbones.humanomni.backbone import HumanOmniBackbone
from lightning_modules.backbones.interface import Backbone
from lightning_modules.backbones.spliced import SplicedBackbone
from tools.estimate.memory import tower_bytes

GO_EMOTIONS_CLASSIFIER = RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1, num_labels=28)
"""Sizes of SamLowe/roberta-base-go_emotions."""

_OF_READING = ("key_mapping", "trust_remote_code", "use_safetensors")
"""Options of `from_pretrained` that say how weights are read."""


@contextmanager
def _substituted(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let one of this project's modules or classes have another attribute while the block runs."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _from_settings(
    model_class: Any, directory: Path, *, dtype: torch.dtype, output_loading_info: bool = False, **options: Any
) -> Any:
    """What `loading.pretrained` returns, with weights that do not exist."""
    options = {name: value for name, value in options.items() if name not in _OF_READING}
    if issubclass(model_class, PreTrainedModel):
        model = model_class(model_class.config_class.from_pretrained(directory, **options))
    else:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False, **options)
        model = model_class.from_config(config, trust_remote_code=False)
    model = model.to(dtype)
    return (model, {"missing_keys": set()}) if output_loading_info else model


@contextmanager
def without_weights() -> Iterator[None]:
    """Let backbones be constructed of their settings alone while the block runs."""
    with ExitStack() as stack:
        for owner, name, value in (
            (loading, "find", partial(loading.find, weights=False)),
            (loading, "count_weights", lambda directory, skip=None: 0),
            (loading, "require_memory", lambda *arguments: None),
            (checkpoint, "load", lambda modules, directory: None),
            (loading, "pretrained", _from_settings),
            (published_adapter, "merge", lambda body, directory: None),
        ):
            stack.enter_context(_substituted(owner, name, value))
        stack.enter_context(torch.device("meta"))
        yield


def build_backbone(settings: Mapping[str, Any]) -> DecoderBackbone:
    """The backbone of a configuration, on the meta device.

    Args:
        settings: `class_path` and `init_args`, as under `model.init_args.backbone`.

    Raises:
        ValueError: the backbone refuses its settings, or its directory or hub id cannot be found.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Backbone, "backbone", required=True)
    config = parser.parse_object({"backbone": deepcopy(dict(settings))})  # the parser changes what it is given
    with without_weights():
        try:
            return parser.instantiate(config).backbone
        except ValueError as error:
            # The parser wraps what a constructor raises, once, in words about types.
            raise ValueError(str(error.__cause__ or error)) from error


def count_verifier(path: str | None) -> int:
    """Numbers of a sequence classifier, by its `config.json`; without a path, those of RoBERTa base.

    Raises:
        ValueError: the configuration cannot be read.
    """
    try:
        config = GO_EMOTIONS_CLASSIFIER if path is None else AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"model.verifier: the configuration of {path} cannot be read ({error}).") from error
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True)
class Media:
    """What a clip becomes on the way into the language model.

    Args:
        prompt_positions: P, with the usual instruction.
        projectors: bytes that autograd saves of the trained projectors per clip.
        towers: bytes that the frozen towers need per clip while they run.
    """

    prompt_positions: int
    projectors: int
    towers: int


def saved_bytes(compute: Callable[[], Any], module: nn.Module) -> int:
    """Bytes that autograd saves of a computation beside the parameters of a module, each tensor once.

    Also on the meta device, where nothing is kept.
    """
    # Tensors may share a storage, which is one object, and on the meta device has no address.
    seen: set[torch.UntypedStorage] = set()

    def note(tensor: Tensor) -> Tensor:
        seen.add(tensor.untyped_storage())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = compute()
    del result
    return sum(storage.nbytes() for storage in seen - {p.untyped_storage() for p in module.parameters()})


def media_of(backbone: Backbone, path: str | None, clip_seconds: float) -> Media:
    """What a clip of so many seconds becomes.

    Args:
        backbone: of `build_backbone`, what is trained set.
        path: where its settings were found.
        clip_seconds: matters to models that hear as much as there is, and not a window of 30 seconds.

    Raises:
        ValueError: a backbone that does not say.
    """
    if isinstance(backbone, SplicedBackbone):
        return _media_of_spliced(backbone)
    if isinstance(backbone, HFBackbone) and path is not None:
        return _media_of_hf(backbone, loading.find(path, weights=False), clip_seconds)
    raise ValueError(f"How long are the prompts of {type(backbone).__name__}? Give --prompt_tokens N.")


def _media_of_spliced(backbone: SplicedBackbone) -> Media:
    sound = backbone.feature_extractor
    size = (backbone.num_frames, 3, backbone.image_size, backbone.image_size)
    clip = Clip(
        id="clip",
        media="clip",
        frames=torch.zeros(size, dtype=torch.uint8),
        waveform=torch.zeros(1),
        has_audio=True,
        instruction=INSTRUCTION,
        target=None,
        mel=torch.zeros(sound.feature_size, sound.nb_max_frames),
    )
    batch = collate([clip]).to("meta")
    with torch.device("meta"), ExitStack() as stack:
        if isinstance(backbone, HumanOmniBackbone):
            # BERT looks at its mask, which has no values here; what it keeps of one question is small.
            gate = torch.empty(1, 3, dtype=backbone.bert.dtype, device="meta")
            stack.enter_context(_substituted(HumanOmniBackbone, "gate", lambda backbone, instructions: gate))
        percept = backbone.perceive(batch)
        prompts: list[Any] = []
        kept = saved_bytes(lambda: prompts.append(backbone.encode(batch, percept)), backbone)
    return Media(prompts[0].embeddings.shape[1], kept, _towers_of_spliced(backbone))


def _towers_of_spliced(backbone: SplicedBackbone) -> int:
    vision, audio = backbone.vision_tower.config, backbone.get_submodule("audio_tower").config
    reads_inside = isinstance(backbone, HumanOmniBackbone)  # takes the last layer but one, of all that are returned
    patches = backbone.num_frames * (vision.image_size // vision.patch_size) ** 2
    width = backbone.vision_tower.dtype.itemsize
    seen = vision.num_hidden_layers + 1 if reads_inside else 2
    return max(
        tower_bytes(patches, vision.hidden_size, vision.intermediate_size, seen, width),
        tower_bytes(audio.max_source_positions, audio.d_model, audio.encoder_ffn_dim, 2, width),
    )


def _media_of_hf(backbone: HFBackbone, directory: Path, clip_seconds: float) -> Media:
    """Their towers see clip after clip, and are small beside what follows; so are their projectors, MLPs on tokens."""
    frames = torch.zeros(backbone.num_frames, 3, backbone.image_size, backbone.image_size, dtype=torch.uint8)
    num_samples = ceil(clip_seconds * SAMPLE_RATE) if backbone.family.hears else 0
    # Settings that became tensors of the meta device are read again.
    backbone.family.read_settings(directory)
    media = backbone.family.media(ClipInput(frames, torch.zeros(num_samples), clip_seconds))
    ids = backbone.token_ids(INSTRUCTION, media)
    width = backbone.decoder.config.hidden_size * next(backbone.parameters()).element_size()
    is_trained = not all(backbone.is_frozen(name) for name in backbone.parts if name.endswith("projector"))
    return Media(len(ids), 4 * width * len(ids) * is_trained, 0)
