"""`python main.py synthesize`: generated corpora in the layouts of the real ones.

Every clip is a real mp4 (H.264 + AAC), so the decoders of the real corpora run on it. A clip depends on the layout, the
seed and its position alone, whatever the number of workers. `synthetic.json` keeps the truth about every clip; nothing
in training reads it.
"""

import json
import math
import multiprocessing
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from rich.progress import track

from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY, Taxonomy, get_taxonomy
from datamodules.files.writing import written_whole
from datamodules.synthetic.face import draw_face
from datamodules.synthetic.grammar import (
    SPLITS,
    View,
    rationale_emotion,
    verifier_sentences,
    with_wrong_labels,
    write_rationale,
)
from datamodules.synthetic.layouts import ClipLayout, SyntheticClip, media_path, write_dfew, write_emer, write_mafw
from datamodules.synthetic.performance import draw_performance
from datamodules.synthetic.truth import TRUTH_FILE
from datamodules.synthetic.voice import speak

Layout = Literal["dfew", "mafw", "emer", "sentences"]

AAC_SAMPLE_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Sample rates that the sound may have, in Hz."""
_WRITERS = {"dfew": write_dfew, "mafw": write_mafw, "emer": write_emer}


@dataclass(frozen=True)
class ClipPlan:
    """What every clip of one corpus has in common; see `synthesize` for the units."""

    layout: ClipLayout
    taxonomy: Taxonomy
    output: Path
    seed: int
    image_size: int
    frame_rate: float
    duration_seconds: float
    sample_rate: int
    face_disagreement: float
    voice_disagreement: float
    face_only_rate: float


def _compute_alone() -> None:
    """Have a worker process use one thread: the cores are taken by the others."""
    import torch

    torch.set_num_threads(1)


def encode_clip(path: Path, frames: np.ndarray, waveform: np.ndarray, frame_rate: float, sample_rate: int) -> None:
    """Write one mp4 (H.264 4:2:0 + AAC mono); the file appears whole or not at all.

    Args:
        path: ends in `.mp4`; an existing file is replaced.
        frames: uint8 RGB `[N, 3, H, W]`, H and W even.
        waveform: float32 `[S]` in [-1, 1].
        frame_rate: in frames per second.
        sample_rate: in Hz.
    """
    # Torch takes a second to import, and `--help` does without.
    import torch
    from torchcodec.encoders import Encoder

    encoder = Encoder()
    # For the same bytes everywhere: x264's output depends on the number of threads, and its macroblock tree was seen to
    # give different bits for the same small frames (10 of 30 clips in 25 encodings; none without it).
    video = encoder.add_video(
        height=frames.shape[2],
        width=frames.shape[3],
        frame_rate=frame_rate,
        codec="libx264",
        pixel_format="yuv420p",
        preset="veryfast",
        extra_options={"threads": 1, "x264-params": "mbtree=0"},
    )
    audio = encoder.add_audio(sample_rate=sample_rate, num_channels=1)
    with written_whole(path) as temporary, encoder.open_file(temporary):
        video.add_frames(torch.from_numpy(frames))
        audio.add_samples(torch.from_numpy(waveform)[None])


def _generator(plan: ClipPlan, stream: str, index: int) -> np.random.Generator:
    """An independent source for one purpose (`stream`) at one position; layouts share no person and no noise."""
    return np.random.default_rng([plan.seed, zlib.crc32(f"{plan.layout}/{stream}".encode()), index])


def _label(plan: ClipPlan, index: int) -> str:
    """Labels are balanced: every run of as many clips as there are classes has each class once, in a random order."""
    block, place = divmod(index, len(plan.taxonomy))
    order = _generator(plan, "labels", block).permutation(len(plan.taxonomy))
    return plan.taxonomy.classes[order[place]]


def make_record(plan: ClipPlan, index: int) -> SyntheticClip:
    """Performance and rationale of the clip at a position; writes nothing."""
    performance = draw_performance(
        _generator(plan, "performance", index),
        plan.taxonomy,
        label=_label(plan, index),
        face_disagreement=plan.face_disagreement,
        voice_disagreement=plan.voice_disagreement,
    )
    rng = _generator(plan, "rationale", index)
    other_view: View = "mixed" if rng.random() < 0.5 else "voice"
    view: View = "face" if rng.random() < plan.face_only_rate else other_view
    rationale = write_rationale(
        rng,
        view,
        performance.label,
        performance.face_emotion,
        performance.voice_emotion,
        performance.identity.person,
    )
    return SyntheticClip(index, performance, view, rationale)


def _make_clip(plan: ClipPlan, index: int) -> SyntheticClip:
    """Draw, voice and encode the clip at a position. Runs in a worker process."""
    record = make_record(plan, index)
    frames = draw_face(
        record.performance, round(plan.duration_seconds * plan.frame_rate), plan.image_size, plan.frame_rate
    )
    waveform = speak(record.performance, round(plan.duration_seconds * plan.sample_rate), plan.sample_rate)
    encode_clip(plan.output / media_path(plan.layout, index), frames, waveform, plan.frame_rate, plan.sample_rate)
    return record


def _make_clips(plan: ClipPlan, num_clips: int, num_workers: int) -> Iterator[SyntheticClip]:
    """Clips in order of position."""
    make = partial(_make_clip, plan)
    if num_workers == 1:
        yield from map(make, range(num_clips))
        return
    # Spawned, not forked: the parent may already run threads of torch and of the progress bar.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer=_compute_alone) as pool:
        yield from pool.map(make, range(num_clips), chunksize=8)


def _truth(plan: ClipPlan, records: Sequence[SyntheticClip]) -> dict[str, object]:
    """Generation parameters, measured rates and the truth about every clip."""
    clips = []
    for record in records:
        performance = record.performance
        clips.append(
            {
                "media": media_path(plan.layout, record.index),
                "label": performance.label,
                "face_emotion": performance.face_emotion,
                "voice_emotion": performance.voice_emotion,
                "face_intensity": round(performance.face_intensity, 4),
                "voice_intensity": round(performance.voice_intensity, 4),
                "person": performance.identity.person,
                "view": record.view,
                "rationale": record.rationale,
                "rationale_emotion": rationale_emotion(record.rationale),
            }
        )

    def share_differing(key: str) -> float:
        return round(sum(clip[key] != clip["label"] for clip in clips) / len(clips), 4)

    parameters = {**asdict(plan), "taxonomy": plan.taxonomy.name, "num_clips": len(clips)}
    del parameters["output"]
    return {
        "parameters": parameters,
        "measured": {
            "face_disagreement": share_differing("face_emotion"),
            "voice_disagreement": share_differing("voice_emotion"),
            "contradicting_rationales": share_differing("rationale_emotion"),
        },
        "clips": clips,
    }


def write_rationale_sentences(
    output_file: str | Path, num_sentences: int, seed: int, taxonomy: Taxonomy, wrong_labels: float = 0.0
) -> None:
    """Write one file of stage 2's sentences: JSON lines `{"text", "emotions": [GoEmotions labels]}`.

    The file's stem names the split, whose combinations of phrases no other split has.

    Args:
        output_file: `train.jsonl`, `val.jsonl` or `test.jsonl` in any folder.
        num_sentences: number of lines.
        seed: of the choices; the splits of one seed are drawn independently.
        taxonomy: the emotions.
        wrong_labels: share of the sentences that have another class' label; the texts stay the same.

    Raises:
        ValueError: the file's stem is not the name of a split.
    """
    path = Path(output_file)
    split = next((name for name in SPLITS if name == path.stem), None)
    if split is None:
        raise ValueError(f"{path}: the stem must name the split, one of {', '.join(SPLITS)}; got {path.stem!r}.")
    rng = np.random.default_rng([seed, zlib.crc32(f"sentences/{split}".encode())])
    sentences = verifier_sentences(rng, split, num_sentences, taxonomy)
    sentences = with_wrong_labels(rng, sentences, wrong_labels, taxonomy)
    lines = [json.dumps({"text": item.text, "emotions": list(item.emotions)}) + "\n" for item in sentences]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def _write_sentence_files(output: Path, num_sentences: int, seed: int, taxonomy: Taxonomy, wrong_labels: float) -> None:
    """Eight tenths of the sentences in `train.jsonl`; one each in `val.jsonl` and `test.jsonl`, with right labels."""
    held_out = num_sentences // 10
    write_rationale_sentences(output / "train.jsonl", num_sentences - 2 * held_out, seed, taxonomy, wrong_labels)
    for split in ("val", "test"):
        write_rationale_sentences(output / f"{split}.jsonl", held_out, seed, taxonomy)


def _check_plan(plan: ClipPlan) -> None:
    if plan.image_size < 32 or plan.image_size % 2:
        raise ValueError(f"image_size is {plan.image_size}; H.264 needs an even number, and a face at least 32 pixels.")
    if not all(map(math.isfinite, (plan.duration_seconds, plan.frame_rate, plan.sample_rate))):
        raise ValueError("duration_seconds, frame_rate and sample_rate must be finite numbers.")
    if plan.duration_seconds * min(plan.frame_rate, plan.sample_rate) < 2:
        raise ValueError(
            f"duration_seconds {plan.duration_seconds} at frame_rate {plan.frame_rate} and sample_rate "
            f"{plan.sample_rate} is less than two frames or two samples; give a longer clip or higher rates."
        )
    if plan.sample_rate not in AAC_SAMPLE_RATES:
        rates = ", ".join(str(rate) for rate in AAC_SAMPLE_RATES)
        raise ValueError(f"sample_rate is {plan.sample_rate} Hz; AAC takes one of {rates}.")
    if not 0 <= plan.face_only_rate <= 1:
        raise ValueError(f"face_only_rate is {plan.face_only_rate}; it is a share of rationales, from 0 to 1.")


def _check_output(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; give a directory.")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise ValueError(f"{output} is not empty. Give a new directory, or `--overwrite true` to write over it.")


def synthesize(
    layout: Layout,
    output: str,
    num_clips: int,
    seed: int = 0,
    taxonomy: Literal["dfew", "mafw"] = "dfew",
    image_size: int = 96,
    frame_rate: float = 25.0,
    duration_seconds: float = 1.2,
    sample_rate: int = 16_000,
    face_disagreement: float = 0.4,
    voice_disagreement: float = 0.1,
    face_only_rate: float = 0.75,
    wrong_labels: float = 0.0,
    num_workers: int = 0,
    overwrite: bool = False,
) -> None:
    """Write a generated corpus in a real corpus' layout.

    Args:
        layout: `dfew` or `mafw` (labelled clips with all five folds), `emer` (clips with rationales for stage 1, as
            R1-Omni's conversation JSON), or `sentences` (train, val and test JSON lines for stage 2, no clips).
        output: directory to write; created, and refused when it is not empty.
        num_clips: number of clips; for `sentences`, of sentences.
        seed: of everything drawn. Layouts of one seed share no person.
        taxonomy: emotions of `emer` and `sentences`; the other layouts have their own.
        image_size: height and width of the picture, in pixels; even.
        frame_rate: in frames per second.
        duration_seconds: length of each clip.
        sample_rate: of the sound, in Hz.
        face_disagreement: share of clips whose face shows another emotion than the label, weakly.
        voice_disagreement: share of clips whose voice does; never both.
        face_only_rate: share of rationales that describe the face alone; of the others, half describe the voice alone
            and half both. The higher it is, the more rationales contradict their label.
        wrong_labels: share of the training sentences of `sentences` that have another class' label.
        num_workers: processes that draw and encode; 0 takes one per CPU.
        overwrite: write into a directory that is not empty. Files of the same name are replaced, others stay.

    Raises:
        ValueError: an argument is out of its range, or `output` is not empty.
    """
    directory = Path(output)
    if num_clips < 10:
        raise ValueError(f"num_clips is {num_clips}; give at least 10, so that there is something in every split.")
    if seed < 0 or num_workers < 0:
        raise ValueError(f"Got seed={seed}, num_workers={num_workers}. Expected 0 or more of each.")
    if not 0 <= wrong_labels <= 1:
        raise ValueError(f"wrong_labels is {wrong_labels}; it is a share of sentences, from 0 to 1.")
    _check_output(directory, overwrite)
    if layout == "sentences":
        _write_sentence_files(directory, num_clips, seed, get_taxonomy(taxonomy), wrong_labels)
        return
    plan = ClipPlan(
        layout=layout,
        taxonomy={"dfew": DFEW_TAXONOMY, "mafw": MAFW_TAXONOMY}.get(layout, get_taxonomy(taxonomy)),
        output=directory,
        seed=seed,
        image_size=image_size,
        frame_rate=frame_rate,
        duration_seconds=duration_seconds,
        sample_rate=sample_rate,
        face_disagreement=face_disagreement,
        voice_disagreement=voice_disagreement,
        face_only_rate=face_only_rate,
    )
    _check_plan(plan)
    make_record(plan, 0)  # Bad rates fail here, before a directory is made.
    (directory / media_path(layout, 0)).parent.mkdir(parents=True, exist_ok=True)
    clips = _make_clips(plan, num_clips, num_workers or os.cpu_count() or 1)
    records = list(track(clips, description=f"{layout}: {num_clips} clips", total=num_clips))
    truth = json.dumps(_truth(plan, records), indent=1, ensure_ascii=False)
    (directory / TRUTH_FILE).write_text(truth + "\n", encoding="utf-8")
    _WRITERS[layout](directory, records)
