"""`python main.py synthesize`: generated corpora in the layouts of the real ones.

Every clip is a real mp4 (H.264 + AAC), so the decoders of the real corpora run on it. A clip depends on the layout, the
seed and its position alone, whatever the number of workers. `synthetic.json` keeps the truth about every clip; nothing
in training reads it.
"""

import json
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
import torch
from rich.progress import track
from torchcodec.encoders import Encoder

from datamodules.emotions import DFEW, MAFW, Taxonomy, get_taxonomy
from datamodules.synthetic.face import draw_face
from datamodules.synthetic.grammar import View, rationale_emotion, verifier_sentences, write_rationale
from datamodules.synthetic.layouts import ClipLayout, ClipRecord, media_path, write_dfew, write_emer, write_mafw
from datamodules.synthetic.performance import draw_performance
from datamodules.synthetic.voice import speak

Layout = Literal["dfew", "mafw", "emer", "sentences"]

TRUTH_FILE = "synthetic.json"
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


@dataclass(frozen=True)
class _Made:
    record: ClipRecord
    view: View


def encode_clip(path: Path, frames: np.ndarray, waveform: np.ndarray, frame_rate: float, sample_rate: int) -> None:
    """Write one mp4 (H.264 4:2:0 + AAC mono); the file appears whole or not at all.

    Args:
        path: ends in `.mp4`; an existing file is replaced.
        frames: uint8 RGB `[N, 3, H, W]`, H and W even.
        waveform: float32 `[S]` in [-1, 1].
        frame_rate: in frames per second.
        sample_rate: in Hz.
    """
    encoder = Encoder()
    # One encoding thread: x264's output depends on the number of threads, which would otherwise be the machine's.
    video = encoder.add_video(
        height=frames.shape[2],
        width=frames.shape[3],
        frame_rate=frame_rate,
        codec="libx264",
        pixel_format="yuv420p",
        preset="veryfast",
        extra_options={"threads": 1},
    )
    audio = encoder.add_audio(sample_rate=sample_rate, num_channels=1)
    partial_path = path.with_name(f".{path.stem}.part.mp4")
    with encoder.open_file(partial_path):
        video.add_frames(torch.from_numpy(frames))
        audio.add_samples(torch.from_numpy(waveform)[None])
    os.replace(partial_path, path)


def _generator(plan: ClipPlan, stream: str, index: int) -> np.random.Generator:
    """An independent source for one purpose (`stream`) at one position; layouts share no person and no noise."""
    return np.random.default_rng([plan.seed, zlib.crc32(f"{plan.layout}/{stream}".encode()), index])


def _label(plan: ClipPlan, index: int) -> str:
    """Labels are balanced: every run of as many clips as there are classes has each class once, in a random order."""
    block, place = divmod(index, len(plan.taxonomy))
    order = _generator(plan, "labels", block).permutation(len(plan.taxonomy))
    return plan.taxonomy.classes[order[place]]


def make_record(plan: ClipPlan, index: int) -> _Made:
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
    return _Made(ClipRecord(index, performance, rationale), view)


def _make_clip(plan: ClipPlan, index: int) -> _Made:
    """Draw, voice and encode the clip at a position. Runs in a worker process."""
    made = make_record(plan, index)
    frames = draw_face(
        made.record.performance, round(plan.duration_seconds * plan.frame_rate), plan.image_size, plan.frame_rate
    )
    waveform = speak(made.record.performance, round(plan.duration_seconds * plan.sample_rate), plan.sample_rate)
    encode_clip(plan.output / media_path(plan.layout, index), frames, waveform, plan.frame_rate, plan.sample_rate)
    return made


def _make_clips(plan: ClipPlan, num_clips: int, num_workers: int) -> Iterator[_Made]:
    """Clips in order of position."""
    make = partial(_make_clip, plan)
    if num_workers == 1:
        yield from map(make, range(num_clips))
        return
    # Spawned, not forked: the parent may already run threads of torch and of the progress bar.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(make, range(num_clips), chunksize=8)


def _truth(plan: ClipPlan, made: Sequence[_Made]) -> dict[str, object]:
    """Generation parameters, measured rates and the truth about every clip."""
    clips = []
    for item in made:
        performance = item.record.performance
        clips.append(
            {
                "media": media_path(plan.layout, item.record.index),
                "label": performance.label,
                "face_emotion": performance.face_emotion,
                "voice_emotion": performance.voice_emotion,
                "face_intensity": round(performance.face_intensity, 4),
                "voice_intensity": round(performance.voice_intensity, 4),
                "person": performance.identity.person,
                "view": item.view,
                "rationale": item.record.rationale,
                "rationale_emotion": rationale_emotion(item.record.rationale),
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


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_rationale_sentences(output_file: str | Path, num_sentences: int, seed: int, taxonomy: Taxonomy) -> None:
    """Write one file of stage 2's sentences: JSON lines `{"text", "emotions": [GoEmotions labels]}`.

    The file's stem names the split, whose combinations of phrases no other split has.

    Args:
        output_file: `train.jsonl`, `val.jsonl` or `test.jsonl` in any folder.
        num_sentences: number of lines.
        seed: of the choices; the splits of one seed are drawn independently.
        taxonomy: the emotions.

    Raises:
        ValueError: the file's stem is not the name of a split.
    """
    path = Path(output_file)
    if path.stem not in ("train", "val", "test"):
        raise ValueError(f"{path}: the stem must name the split, one of train, val, test; got {path.stem!r}.")
    rng = np.random.default_rng([seed, zlib.crc32(f"sentences/{path.stem}".encode())])
    sentences = verifier_sentences(rng, path.stem, num_sentences, taxonomy)
    lines = [json.dumps({"text": item.text, "emotions": list(item.emotions)}) + "\n" for item in sentences]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def _write_sentence_files(output: Path, num_sentences: int, seed: int, taxonomy: Taxonomy) -> None:
    """Eight tenths of the sentences in `train.jsonl`, one each in `val.jsonl` and `test.jsonl`."""
    held_out = num_sentences // 10
    for split, count in (("train", num_sentences - 2 * held_out), ("val", held_out), ("test", held_out)):
        write_rationale_sentences(output / f"{split}.jsonl", count, seed, taxonomy)


def _check(output: Path, num_clips: int, image_size: int, face_only_rate: float, overwrite: bool) -> None:
    if num_clips < 10:
        raise ValueError(f"num_clips is {num_clips}; give at least 10, so that there is something in every split.")
    if image_size < 32 or image_size % 2:
        raise ValueError(f"image_size is {image_size}; H.264 needs an even number, and a face at least 32 pixels.")
    if not 0 <= face_only_rate <= 1:
        raise ValueError(f"face_only_rate is {face_only_rate}; it is a share of rationales, from 0 to 1.")
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
        num_workers: processes that draw and encode; 0 takes one per CPU.
        overwrite: write into a directory that is not empty. Files of the same name are replaced, others stay.

    Raises:
        ValueError: an argument is out of its range, or `output` is not empty.
    """
    directory = Path(output)
    _check(directory, num_clips, image_size, face_only_rate, overwrite)
    if layout == "sentences":
        _write_sentence_files(directory, num_clips, seed, get_taxonomy(taxonomy))
        return
    plan = ClipPlan(
        layout=layout,
        taxonomy={"dfew": DFEW, "mafw": MAFW}.get(layout, get_taxonomy(taxonomy)),
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
    make_record(plan, 0)  # Bad rates fail here, before a directory is made.
    (directory / media_path(layout, 0)).parent.mkdir(parents=True, exist_ok=True)
    clips = _make_clips(plan, num_clips, num_workers or os.cpu_count() or 1)
    made = list(track(clips, description=f"{layout}: {num_clips} clips", total=num_clips))
    _write_json(directory / TRUTH_FILE, _truth(plan, made))
    _WRITERS[layout](directory, [item.record for item in made])
