"""Published weights: safetensors and pickles, hostile files, the hub, other architectures, and too little memory."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

from datamodules.batch import ClipBatch
from lightning_modules.backbones import loading
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.humanomni.backbone import HumanOmniBackbone
from lightning_modules.backbones.spliced import count_tower_weights
from lightning_modules.processes import of_node

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).parents[2] / "golden" / "humanomni_small"
BERT = str(GOLDEN / "towers" / "bert-tiny")
GIB = 2**30


class Payload:
    """Unpickling this creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.file,))


def write_zip(content: object, file: Path) -> None:
    torch.save(content, file)


def write_legacy(content: object, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def write_bare(content: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(content))


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy of the tiny HumanOmni checkpoint without its weights."""
    ignored = shutil.ignore_patterns("model.safetensors", "golden*")
    shutil.copytree(
        GOLDEN, tmp_path / "golden", ignore=lambda d, names: ignored(d, names) if d == str(GOLDEN) else set()
    )
    return tmp_path / "golden"


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict())


@pytest.mark.parametrize("write", [write_zip, write_legacy, write_bare])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(
    write: Callable[[object, Path], None], golden: Path, tiny_models: Path, tmp_path: Path
) -> None:
    planted = tmp_path / "planted"
    payload = {**load_file(GOLDEN / "model.safetensors"), "model.norm.weight": Payload(planted)}
    write(payload, golden / "pytorch_model.bin")
    refusal = re.escape(str(golden / "pytorch_model.bin")) + ".*holds more than tensors.*run any code.*save_file"
    for read in (
        lambda: list(loading.read_tensors(golden)),
        lambda: loading.count_weights(golden),
        lambda: HumanOmniBackbone(str(golden), bert=BERT),
    ):
        with pytest.raises(ValueError, match=refusal):
            read()
    parts = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
    for name in parts:
        directory = tmp_path / name
        shutil.copytree(parts[name], directory, ignore=shutil.ignore_patterns("*.safetensors"))
        write(payload, directory / "pytorch_model.bin")
        with pytest.raises(ValueError, match="holds more than tensors"):
            ComposedBackbone(**{**parts, name: str(directory)})
    assert not planted.exists()
    pickle.loads(pickle.dumps(Payload(planted)))
    assert planted.exists(), "the payload would not have shown itself"


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_pickled_state_dict_loads_as_safetensors_do(write: Callable[[object, Path], None], golden: Path) -> None:
    write(load_file(GOLDEN / "model.safetensors"), golden / "pytorch_model.bin")
    expected = weights_of(HumanOmniBackbone(str(GOLDEN), bert=BERT))
    found = weights_of(HumanOmniBackbone(str(golden), bert=BERT))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert loading.count_weights(golden) == loading.count_weights(GOLDEN)


def test_pickled_shards_load_and_must_stand_beside_their_index(golden: Path) -> None:
    tensors = load_file(GOLDEN / "model.safetensors")
    names = sorted(tensors)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, own in shards.items():
        torch.save({name: tensors[name] for name in own}, golden / file)
    index = golden / "pytorch_model.bin.index.json"
    weight_map = {name: file for file, own in shards.items() for name in own}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    read = dict(loading.read_tensors(golden))
    assert sorted(read) == names and all(torch.equal(read[name], tensors[name]) for name in names)
    skipped = dict(loading.read_tensors(golden, skip=re.compile(r"model\.bert")))
    assert sorted(skipped) == [name for name in names if not name.startswith("model.bert")]
    shutil.move(golden / "pytorch_model-00002-of-00002.bin", golden.parent / "elsewhere.bin")
    for elsewhere in ("../elsewhere.bin", str(golden.parent / "elsewhere.bin"), "pytorch_model-00002-of-00002.bin"):
        index.write_text(json.dumps({"weight_map": {**weight_map, names[1]: elsewhere}}))
        with pytest.raises(ValueError, match=r"lacks .*pytorch_model.bin.index.json names"):
            loading.count_weights(golden)


def test_composed_parts_load_from_pickles(
    backbone: ComposedBackbone, batch: ClipBatch, tiny_models: Path, tmp_path: Path
) -> None:
    parts = {}
    for name in ("vision", "audio", "language_model"):
        parts[name] = str(tmp_path / name)
        shutil.copytree(tiny_models / name, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
        torch.save(load_file(tiny_models / name / "model.safetensors"), tmp_path / name / "pytorch_model.bin")
    torch.manual_seed(0)  # the projectors, as in `backbone`
    again = ComposedBackbone(**parts, num_frames=2, video_grid=2, audio_pool=10)
    torch.testing.assert_close(again.encode(batch).embeddings, backbone.encode(batch).embeddings, atol=0, rtol=0)


def test_what_is_no_state_dict_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no weights. Expected one of model.safetensors, .*pytorch_model.bin"):
        loading.count_weights(tmp_path)
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="holds more than tensors by name"):
        list(loading.read_tensors(tmp_path))
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "pytorch_model.bin")
    content = (tmp_path / "pytorch_model.bin").read_bytes()
    for length in (0, len(content) // 2):
        (tmp_path / "pytorch_model.bin").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"pytorch_model.bin (cannot be read|holds more than tensors)"):
            list(loading.read_tensors(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read .*download it again"):
        loading.count_weights(tmp_path)


class Hub:
    """`snapshot_download` of a repository with the given files."""

    def __init__(self, root: Path, files: list[str]) -> None:
        self.root, self.files, self.downloaded = root, files, set()

    def __call__(self, name: str, allow_patterns: list[str], revision: str | None = None) -> str:
        from huggingface_hub.utils import filter_repo_objects

        self.asked = (name, revision)
        for file in filter_repo_objects(self.files, allow_patterns=allow_patterns):
            self.downloaded.add(file)
            (self.root / file).parent.mkdir(parents=True, exist_ok=True)
            (self.root / file).touch()
        return str(self.root)


SETTINGS = ["config.json", "tokenizer.json", "tokenizer.model", "vocab.txt", "merges.txt", "chat_template.jinja"]
SETTINGS += ["preprocessor_config.json", "generation_config.json"]
PICKLES = ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"]
OTHERS = ["modeling_new.py", "tf_model.h5", "flax_model.msgpack", "model.fp32-00001-of-00002.safetensors", "README.md"]


@pytest.mark.parametrize("safe", [["model.safetensors"], ["model-00001-of-00002.safetensors"], []])
def test_of_a_repository_only_what_is_needed_is_downloaded(
    safe: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = Hub(tmp_path, [*SETTINGS, *safe, *PICKLES, *OTHERS])
    monkeypatch.setattr(loading, "snapshot_download", hub)
    assert loading.find("some/model", weights=False) == tmp_path
    assert hub.downloaded == set(SETTINGS)
    assert loading.find("some/model") == tmp_path
    assert hub.downloaded == {*SETTINGS, *(safe or PICKLES)}


def test_a_model_may_be_of_a_revision_and_have_adapters_in_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = ["config.json", "model.safetensors", "vision-lora/adapter_config.json"]
    hub = Hub(tmp_path, [*files, "vision-lora/adapter_model.safetensors"])
    monkeypatch.setattr(loading, "snapshot_download", hub)
    assert loading.find("some/model@refs/pr/70") == tmp_path
    assert hub.asked == ("some/model", "refs/pr/70")
    assert hub.downloaded == {*files, "vision-lora/adapter_model.safetensors"}
    loading.find("some/model")
    assert hub.asked == ("some/model", None)

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(loading, "snapshot_download", unreachable)
    with pytest.raises(ValueError, match="hf download some/model --revision refs/pr/70 --local-dir DIR"):
        loading.find("some/model@refs/pr/70")
    (tmp_path / "me@home").mkdir()
    assert loading.find(f"{tmp_path}/me@home") == tmp_path / "me@home"


@pytest.mark.parametrize("name", ["/data/me@home/model", "runs/grpo/model", r"C:\models\x", "./x"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(ValueError, match="there is no directory .*, nor could it be a model of the hub"):
        loading.find(name)


def test_towers_in_a_pushed_checkpoint_are_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = ["config.json", "model.safetensors", "towers/vision/config.json", "towers/vision/model.safetensors"]
    monkeypatch.setattr(loading, "snapshot_download", hub := Hub(tmp_path, files))
    loading.find("some/model")
    assert hub.downloaded == set(files)


@pytest.mark.parametrize("argument", ["vision", "audio", "language_model"])
def test_composed_names_the_argument_that_is_wrong(
    argument: str, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
    wrong, found, expected = {
        "vision": ("audio", "whisper", "'siglip' or 'siglip_vision_model' \\(a SigLIP model"),
        "audio": ("language_model", "qwen2", "'whisper' \\(a Whisper model"),
        "language_model": ("vision", "siglip_vision_model", "one of .* types \\(a causal language model"),
    }[argument]
    with pytest.raises(ValueError, match=f"^{argument}: .*model_type '{found}', expected {expected}"):
        ComposedBackbone(**{**parts, argument: str(tiny_models / wrong)})
    with pytest.raises(ValueError, match=f"^{argument}: {tmp_path} has no config.json. Expected a"):
        ComposedBackbone(**{**parts, argument: str(tmp_path)})

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(loading, "snapshot_download", unreachable)
    with pytest.raises(ValueError, match=rf"^{argument}: 'some/model' .*no route to host.*give its path as {argument}"):
        ComposedBackbone(**{**parts, argument: "some/model"})


def test_a_classifier_is_no_language_model(tiny_models: Path) -> None:
    parts = {name: str(tiny_models / name) for name in ("vision", "audio")}
    with pytest.raises(ValueError, match="holds a RobertaForSequenceClassification, expected a RobertaForCausalLM"):
        ComposedBackbone(**parts, language_model=str(tiny_models / "verifier"))


@pytest.mark.parametrize(("argument", "expected"), [("vision", "siglip"), ("audio", "whisper"), ("bert", "bert")])
def test_humanomni_names_the_argument_that_is_wrong(argument: str, expected: str, golden: Path) -> None:
    shutil.copy(GOLDEN / "model.safetensors", golden)
    towers = {"vision": "siglip-tiny", "audio": "whisper-tiny", "bert": "bert-tiny"}
    parts = {name: str(GOLDEN / "towers" / tower) for name, tower in towers.items()}
    other = parts["audio"] if argument == "vision" else parts["vision"]
    with pytest.raises(ValueError, match=f"^{argument}: .*model_type '(whisper|siglip)', expected '{expected}'"):
        HumanOmniBackbone(str(golden), **{**parts, argument: other})


def test_weights_are_counted_without_the_halves_that_are_not_loaded(
    backbone: ComposedBackbone, tiny_models: Path, tmp_path: Path
) -> None:
    def size(*modules: torch.nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    towers = (tiny_models / "vision", tiny_models / "audio")
    assert count_tower_weights(*towers) == size(backbone.vision_tower, backbone.audio_tower)
    config = WhisperConfig(
        **{**backbone.audio_tower.config.to_dict(), "decoder_layers": 1, "decoder_attention_heads": 2}
    )
    WhisperForConditionalGeneration(config).save_pretrained(tmp_path)
    assert loading.count_weights(tmp_path) > count_tower_weights(towers[0], tmp_path) - size(backbone.vision_tower)
    assert count_tower_weights(towers[0], tmp_path) == size(backbone.vision_tower, backbone.audio_tower)
    assert loading.count_weights(tiny_models / "language_model") == size(backbone.language_model)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[float | None, list[float]], None]:
    """Pretend to have so many GiB free, and GPUs of so many GiB."""

    def pretend(free: float | None, gpus: list[float]) -> None:
        monkeypatch.setattr(loading, "available_memory", lambda: None if free is None else int(free * GIB))
        monkeypatch.setattr(loading, "gpu_memory", lambda: [int(gpu * GIB) for gpu in gpus])

    return pretend


def test_weights_that_do_not_fit_are_refused(machine: Callable[..., None], recwarn: pytest.WarningsRecorder) -> None:
    billion = 1_000_000_000
    machine(20, [])
    loading.require_memory(4 * billion, "float32")
    with pytest.raises(
        ValueError, match=r"My: 8.00 billion weights need 31.3 GiB in float32, and 20.0 GiB are free.*bfl"
    ):
        loading.require_memory(8 * billion, "float32", "My")
    loading.require_memory(8 * billion, "bfloat16")
    with pytest.raises(ValueError, match=r"need 39.1 GiB in bfloat16, .* Choose a smaller model \(LoRA does not help"):
        loading.require_memory(20 * billion, "bfloat16")
    machine(None, [])
    loading.require_memory(1000 * billion, "float32")
    machine(64, [24])
    loading.require_memory(8 * billion, "bfloat16")
    with pytest.raises(ValueError, match=r"this machine's GPU has 24.0 GiB.*CUDA_VISIBLE_DEVICES"):
        loading.require_memory(8 * billion, "float32")
    assert not recwarn.list
    machine(64, [24, 24])
    with pytest.warns(UserWarning, match=r"2 GPUs have 24.0 GiB each or more. Only a trainer.strategy that shards"):
        loading.require_memory(8 * billion, "float32")
    machine(64, [8, 8])
    with pytest.raises(ValueError, match=r"2 GPUs have 8.0 GiB each"):
        loading.require_memory(8 * billion, "float32")


def test_the_first_process_of_a_node_counts_all(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(64, [])
    with of_node(8):
        loading.require_memory(4_000_000_000, "bfloat16")
        with pytest.raises(ValueError, match="need 15.6 GiB in bfloat16 on each of 8 processes, and 64.0 GiB are free"):
            loading.require_memory(8_000_000_000, "bfloat16")
        monkeypatch.setenv("LOCAL_RANK", "1")
        loading.require_memory(8_000_000_000, "bfloat16")


def test_backbones_look_at_the_memory_before_they_load(
    machine: Callable[..., None], tiny_models: Path, tmp_path: Path
) -> None:
    parts = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
    machine(0.0001, [])
    with pytest.raises(ValueError, match="ComposedBackbone: .* are free on this machine"):
        ComposedBackbone(**parts)
    with pytest.raises(ValueError, match="HumanOmniBackbone: .* are free on this machine"):
        HumanOmniBackbone(str(GOLDEN), bert=BERT)
    save_file({"weight": torch.zeros(10, 3), "bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    machine(0, [])
    with pytest.raises(ValueError, match="The backbone: "):
        loading.require_memory(tmp_path, "float32")
    assert loading.count_weights(tmp_path) == 33


def test_memory_of_this_machine(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       24000000 kB\nMemFree:          100000 kB\nMemAvailable:   12000000 kB\n")
    assert loading.available_memory(meminfo) == 12_000_000 * 1024
    assert loading.available_memory(tmp_path / "nowhere") is None
    meminfo.write_text("MemTotal: 1 kB\n")
    assert loading.available_memory(meminfo) is None
