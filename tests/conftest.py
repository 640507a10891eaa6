"""Tiny random-weight models and batches that every test tier shares."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, as some of the following do

from datamodules.batch import Clip, ClipBatch, collate
from datamodules.clip_dataset import ClipDataset
from datamodules.clip_source import INSTRUCTION, TRANSCRIPT, ClipRecord
from datamodules.media_settings import MediaSettings
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.tiny import write_tiny_models

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the cores are taken by the other workers

NUM_FRAMES, IMAGE_SIZE = 2, 32
RATIONALE = "The man frowns hard. He shouts in a loud voice. The room is quiet."


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test says what it is: `make test-fast` chooses by that."""
    kinds = ("unit", "numerics", "e2e")
    unmarked = {item.location[0] for item in items if not any(item.get_closest_marker(kind) for kind in kinds)}
    if unmarked:
        raise pytest.UsageError(f"Mark the tests in {', '.join(sorted(unmarked))} with one of {', '.join(kinds)}.")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with tiny `vision/`, `audio/`, `language_model/` and `verifier/`."""
    root = tmp_path_factory.mktemp("tiny")
    corpus = root / "corpus.txt"
    corpus.write_text(f"<think>{RATIONALE}</think>\n<answer>angry</answer>\n" * 20)
    write_tiny_models(
        str(root), [str(corpus)], vocab_size=384, hidden_size=64, num_layers=2, image_size=IMAGE_SIZE, audio_seconds=1
    )
    return root


@pytest.fixture
def backbone(tiny_models: Path) -> ComposedBackbone:
    """A freshly loaded composed backbone; its projectors are drawn from a fixed seed."""
    torch.manual_seed(0)
    return ComposedBackbone(
        vision=str(tiny_models / "vision"),
        audio=str(tiny_models / "audio"),
        language_model=str(tiny_models / "language_model"),
        num_frames=NUM_FRAMES,
        video_grid=2,
        audio_pool=10,
    )


@pytest.fixture
def make_clip() -> Callable[..., Clip]:
    """Random clips that fit the tiny backbone, the same for the same seed."""

    def make(seed: int, **fields) -> Clip:
        generator = torch.Generator().manual_seed(seed)
        frames = torch.randint(0, 256, (NUM_FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE), generator=generator, dtype=torch.uint8)
        waveform = torch.rand(8_000 + 500 * seed, generator=generator) - 0.5
        values = {
            "id": f"clip{seed}",
            "media": f"clip{seed}.mp4",
            "frames": frames,
            "waveform": waveform,
            "has_audio": True,
            "instruction": INSTRUCTION,
            "target": "anger",
            "response": f"<think>{RATIONALE}</think>\n<answer>angry</answer>",
        }
        return Clip(**{**values, **fields})

    return make


@pytest.fixture
def batch(make_clip: Callable[..., Clip]) -> ClipBatch:
    """Three clips with instructions of different lengths, hence prompts padded on the left."""
    return collate(
        [
            make_clip(0),
            make_clip(1, instruction=f"{INSTRUCTION} Be brief, and look at the face."),
            make_clip(2, instruction="Which emotion?", target="happiness"),
        ]
    )


class ReadyClips(ClipDataset):
    """A dataset of clips that are decoded already; counts how often each is asked for."""

    def __init__(self, clips: list[Clip]) -> None:
        records = [
            ClipRecord(c.id, c.media, c.target, None, f"labels:{i}", c.dataset, transcript=c.told)
            for i, c in enumerate(clips)
        ]
        super().__init__(
            records, MediaSettings(), INSTRUCTION, "skip", cache_in_memory=False, transcript_template=TRANSCRIPT
        )
        self.clips = clips
        self.asked: Counter[int] = Counter()

    def __getitem__(self, index: int) -> Clip:
        self.asked[index] += 1
        return self.clips[index]


@pytest.fixture
def ready_clips() -> type[ReadyClips]:
    return ReadyClips
