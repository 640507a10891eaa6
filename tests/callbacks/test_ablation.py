"""The test set under each ablation: policies that only look or only listen, and tiny weights in a real Trainer."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.ablation import ModalityAblation
from callbacks.prediction_writer import PredictionWriter
from datamodules.ablation import ABLATIONS
from datamodules.batch import Clip, ClipBatch, collate
from datamodules.clip_dataset import ClipDataset
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.samplers import evaluation_sampler
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.feature_cache import FeatureCache
from lightning_modules.backbones.interface import Completions, Sampling
from lightning_modules.backbones.percept import Percept
from lightning_modules.metrics.predictions import read_predictions
from lightning_modules.policy import PolicyModule

pytestmark = pytest.mark.e2e

GREEDY = Sampling(max_new_tokens=4, temperature=0)
SAMPLED = Sampling(max_new_tokens=6, temperature=1.0)
CLASSES = ("happiness", "sadness", "anger")
NOTHING = "neutral"


class AblatedClips(LightningDataModule):
    """Test clips in small batches, the last one smaller."""

    taxonomy = DFEW_TAXONOMY

    def __init__(self, dataset: ClipDataset) -> None:
        super().__init__()
        self.dataset = dataset

    def test_dataloader(self) -> DataLoader:
        sampler = evaluation_sampler(self.dataset, self.trainer)
        return DataLoader(self.dataset, batch_size=2, collate_fn=collate, sampler=sampler)


class Reader(ComposedBackbone):
    """Reads a class in the grey of the pictures, in the level of the sound, or in what it is told, and speaks of that.

    Args:
        sense: `eyes`, `ears` or `words`: which of them.
    """

    sense: str

    def perceive(self, batch: ClipBatch) -> Percept:
        self._batch = batch
        return super().perceive(batch)

    def texts(self, completions: Completions) -> list[str]:
        batch = self._batch
        return [self._read(*clip) for clip in zip(batch.frames, batch.waveform, batch.told, strict=True)]

    def _read(self, frames: Tensor, waveform: Tensor, told: str | None) -> str:
        if self.sense == "eyes":
            emotion = _emotion(frames.float().mean().item() / 20)
            sentence = f"The face shows {emotion}."
        elif self.sense == "words":
            emotion = (told or NOTHING).split()[-1]
            sentence = f"The words speak of {emotion}."
        else:
            emotion = _emotion(waveform[0].item() * 10 if len(waveform) else 0)
            sentence = f"The voice carries {emotion}."
        return f"<think>The room is quiet. {sentence}</think><answer>{emotion}</answer>"


def _emotion(level: float) -> str:
    return (NOTHING, *CLASSES)[round(level)]


class LastWordJudge:
    """Names the last word of a rationale."""

    name = "last-word"

    def judge(self, rationales, taxonomy) -> list[str | None]:
        return [
            taxonomy.canonical(rationale.rstrip(".").split()[-1]) if rationale else None for rationale in rationales
        ]


@pytest.fixture
def reader(tiny_models: Path) -> Callable[[str], Reader]:
    def make(sense: str) -> Reader:
        parts = {part: str(tiny_models / part) for part in ("vision", "audio", "language_model")}
        backbone = Reader(**parts, num_frames=2, video_grid=2, audio_pool=10)
        backbone.sense = sense
        return backbone

    return make


@pytest.fixture
def telling(make_clip: Callable[..., Clip], ready_clips: Callable[[list[Clip]], ClipDataset]) -> ClipDataset:
    """Seven clips whose picture, sound and transcript tell their class."""
    clips = []
    for seed in range(7):
        level = seed % 3 + 1
        frames = torch.full((2, 3, 32, 32), 20 * level, dtype=torch.uint8)
        sound = torch.full((4000,), level / 10)
        emotion = CLASSES[level - 1]
        clips.append(make_clip(seed, frames=frames, waveform=sound, target=emotion, told=f"They say: {emotion}"))
    return ready_clips(clips)


@pytest.fixture
def noisy(make_clip: Callable[..., Clip], ready_clips: Callable[[list[Clip]], ClipDataset]) -> ClipDataset:
    return ready_clips([make_clip(seed, target=CLASSES[seed % 3]) for seed in range(5)])


def run(module: nn.Module, dataset: ClipDataset, root: Path, *callbacks: Any, **options: Any) -> Path:
    options = {"devices": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False} | options
    trainer = Trainer(accelerator="cpu", default_root_dir=root, callbacks=[PredictionWriter(), *callbacks], **options)
    torch.manual_seed(5)
    trainer.test(module, datamodule=AblatedClips(dataset), verbose=False)
    return root


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_a_policy_that_only_listens(reader: Callable[[str], Reader], telling: ClipDataset, tmp_path: Path) -> None:
    module = PolicyModule(reader("ears"), "dfew", judge=LastWordJudge(), evaluation=GREEDY)
    run(module, telling, tmp_path, ModalityAblation())
    report = json.loads((tmp_path / "ablation.json").read_text())
    assert report["full"] == {"war": 1.0, "uar": 1.0, "eea": 1.0, "epc": 1.0, "fcr": 1.0}
    assert (report["taxonomy"], report["judge"], report["num_samples"]) == ("dfew", "last-word", 7)
    assert list(report["modes"]) == list(ABLATIONS[1:])
    for mode in ("audio_only", "frozen_first_frame", "no_transcript", "swapped_transcript"):
        own = report["modes"][mode]
        assert all((rate["value"], rate["difference"]) == (1.0, 0.0) for rate in own["rates"].values())
        assert all(rate["low"] == pytest.approx(-rate["high"]) for rate in own["rates"].values())
        assert (own["answers_changed"], own["verdicts_changed"], own["word_distance"]) == (0, 0, 0)
        assert (own["sentences_kept"], own["completions_kept"]) == (1, 1)
    for mode in ("video_only", "text_only", "swapped_audio"):
        own = report["modes"][mode]
        war = own["rates"]["war"]
        assert (war["value"], war["difference"], war["low"]) == (0.0, -1.0, pytest.approx(-1.0)) and war["high"] < 0
        assert own["rates"]["fcr"]["difference"] == -1 and own["rates"]["epc"]["difference"] == 0, "still consistent"
        assert (own["answers_changed"], own["verdicts_changed"], own["completions_kept"]) == (1, 1, 0)
        # The, room, is, quiet, voice, carries: 6 words in both of 8 in all.
        assert own["word_distance"] == pytest.approx(1 - 6 / 8) and own["sentences_kept"] == 0.5
    swapped = report["modes"]["swapped_audio"]
    assert (swapped["answers_of_the_sound"], swapped["answers_of_the_sound_full"]) == (1, 0)
    rows = lines(tmp_path / "ablation.jsonl")
    assert len(rows) == 7 * 7
    for row in (row for row in rows if row["mode"] == "swapped_audio"):
        assert row["prediction"] == row["sound_target"] != row["target"] == row["prediction_full"]
        assert row["sound_of"] != row["id"]


def test_a_policy_that_only_looks_says_so(
    reader: Callable[[str], Reader], telling: ClipDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = PolicyModule(reader("eyes"), "dfew", judge=LastWordJudge(), evaluation=GREEDY)
    run(module, telling, tmp_path, ModalityAblation(modes=["video_only", "swapped_audio", "audio_only"]))
    report = json.loads((tmp_path / "ablation.json").read_text())
    for mode in ("video_only", "swapped_audio"):
        assert all(rate["difference"] == 0 for rate in report["modes"][mode]["rates"].values())
        assert report["modes"][mode]["completions_kept"] == 1
    assert report["modes"]["audio_only"]["rates"]["war"]["value"] == 0
    printed = capsys.readouterr().out
    for mode in ("video_only", "swapped_audio"):
        assert f"{mode}: every completion is the one of the full clips." in printed
    assert "audio_only: every" not in printed
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_a_policy_that_only_reads(reader: Callable[[str], Reader], telling: ClipDataset, tmp_path: Path) -> None:
    module = PolicyModule(reader("words"), "dfew", evaluation=GREEDY)
    run(module, telling, tmp_path, ModalityAblation())
    report = json.loads((tmp_path / "ablation.json").read_text())
    modes = report["modes"]
    wars = {mode: own["rates"]["war"]["value"] for mode, own in modes.items()}
    assert wars == {mode: float("transcript" not in mode) for mode in ABLATIONS[1:]}
    swapped = modes["swapped_transcript"]
    assert (swapped["answers_of_the_transcript"], swapped["answers_of_the_transcript_full"]) == (1, 0)
    assert modes["swapped_audio"]["answers_of_the_sound"] == 0
    for row in lines(tmp_path / "ablation.jsonl"):
        if row["mode"] == "swapped_transcript":
            assert row["prediction"] == row["transcript_target"] != row["target"]


def test_the_test_itself_is_as_without_the_ablation(
    backbone: ComposedBackbone, tiny_models: Path, noisy: ClipDataset, tmp_path: Path
) -> None:
    module = PolicyModule(backbone, "dfew", verifier=str(tiny_models / "verifier"), evaluation=SAMPLED)
    plain = run(module, noisy, tmp_path / "plain")
    with pytest.warns(UserWarning, match=r"sampled at temperature 1\.0"):
        ablated = run(module, noisy, tmp_path / "ablated", ModalityAblation())
    expected = (plain / "predictions.jsonl").read_bytes()
    assert len({row["completion"] for row in lines(plain / "predictions.jsonl")}) > 1
    assert (ablated / "predictions.jsonl").read_bytes() == expected
    assert (ablated / "predictions_full.jsonl").read_bytes() == expected
    assert (ablated / "metrics.json").read_bytes() == (plain / "metrics.json").read_bytes()
    without_transcripts = ABLATIONS[1:-2]
    assert list(json.loads((ablated / "ablation.json").read_text())["modes"]) == list(without_transcripts)
    for mode in without_transcripts:
        file = read_predictions(ablated / f"predictions_{mode}.jsonl")
        assert [own.id for own in file.predictions] == [f"clip{i}" for i in range(5)]
        assert file.judge == module.judge_name


def test_a_deaf_backbone_draws_the_same_completions(
    backbone: ComposedBackbone, noisy: ClipDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear = backbone._hear
    monkeypatch.setattr(backbone, "_hear", lambda batch: torch.zeros_like(hear(batch)))
    module = PolicyModule(backbone, "dfew", evaluation=SAMPLED)
    run(module, noisy, tmp_path, ModalityAblation(modes=["video_only", "swapped_audio", "audio_only"]))
    modes = json.loads((tmp_path / "ablation.json").read_text())["modes"]
    assert modes["video_only"]["completions_kept"] == modes["swapped_audio"]["completions_kept"] == 1
    assert modes["audio_only"]["completions_kept"] < 1
    assert set(modes["video_only"]["rates"]) == {"war", "uar"}, "nobody judges"
    assert modes["video_only"]["verdicts_changed"] is None


def test_ablated_clips_pass_the_feature_cache_by(
    backbone: ComposedBackbone, noisy: ClipDataset, tmp_path: Path
) -> None:
    results = []
    for name, cache in (("plain", None), ("cached", FeatureCache(str(tmp_path / "features"), max_gigabytes=1.0))):
        module = PolicyModule(backbone, "dfew", evaluation=GREEDY, feature_cache=cache)
        for _ in range(2):  # the second time, all clips are in the cache
            ablation = ModalityAblation(modes=["video_only", "swapped_audio"])
            directory = run(module, noisy, tmp_path / name, ablation)
        results.append((directory / "ablation.jsonl").read_bytes())
    assert results[0] == results[1]
    assert len(list((tmp_path / "features").rglob("*.safetensors"))) == len(noisy)


def test_a_clip_that_cannot_be_decoded_stays_a_wrong_answer(
    reader: Callable[[str], Reader],
    make_clip: Callable[..., Clip],
    ready_clips: Callable[[list[Clip]], ClipDataset],
    telling: ClipDataset,
    tmp_path: Path,
) -> None:
    black = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    failed = make_clip(9, frames=black, waveform=torch.zeros(0), has_audio=False, failure="no frames")
    module = PolicyModule(reader("ears"), "dfew", judge=LastWordJudge(), evaluation=GREEDY)
    run(module, ready_clips([failed, telling[0], telling[1]]), tmp_path, ModalityAblation())
    for mode in ABLATIONS:
        first = read_predictions(tmp_path / f"predictions_{mode}.jsonl").predictions[0]
        assert (first.failure, first.prediction, first.judged, first.completion) == ("no frames", None, None, "")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A forked process must not look for the threads of its parent's OpenMP pool."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_two_processes_report_what_one_does(
    reader: Callable[[str], Reader], telling: ClipDataset, tmp_path: Path
) -> None:
    module = PolicyModule(reader("ears"), "dfew", judge=LastWordJudge(), evaluation=GREEDY)
    single = run(module, telling, tmp_path / "single", ModalityAblation())
    double = run(module, telling, tmp_path / "double", ModalityAblation(), strategy="ddp_fork", devices=2)
    assert json.loads((single / "ablation.json").read_text()) == json.loads((double / "ablation.json").read_text())
    key = lambda row: (row["mode"], row["id"])  # noqa: E731
    assert sorted(lines(single / "ablation.jsonl"), key=key) == sorted(lines(double / "ablation.jsonl"), key=key)


def test_wrong_settings_are_refused(
    backbone: ComposedBackbone, noisy: ClipDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for modes in (["full"], [], ["video_only", "video_only"], ["blind"]):
        with pytest.raises(ValueError, match="Expected different ones of video_only, audio_only"):
            ModalityAblation(modes=modes)
    module = PolicyModule(backbone, "dfew", evaluation=GREEDY)
    with pytest.raises(ValueError, match="it is told so of no test clip. Set data.transcript_template"):
        run(module, noisy, tmp_path, ModalityAblation(modes=["no_transcript"]))
    loader = DataLoader([collate([noisy[0]])], batch_size=None)
    monkeypatch.setattr(AblatedClips, "test_dataloader", lambda self: loader)
    with pytest.raises(ValueError, match=r"the test loader has list\. Leave swapped_audio out"):
        run(module, noisy, tmp_path, ModalityAblation())
