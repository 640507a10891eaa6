"""Clips per second that one loader worker decodes: this project, its cache, PyAV and decord, on the same files.

    python benchmarks/decode.py [--clips DIR] [--num_clips 24] [--repeats 5] [--num_workers 1] [--output FILE.json]

Every method gives the same thing: 8 uniform frames by exact index, padded to 224 × 224, and mono 16 kHz sound. One
worker has one core, hence one decoding thread; "PyAV, default threads" is what PyAV does unasked. The methods take
turns within each repeat, and the figures are medians over the repeats. Ratios are of CPU time, because wall time
suffers more from whatever else the machine does; their range over the repeats tells how far to trust them.
"""

import argparse
import functools
import importlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchcodec.decoders import VideoDecoder

sys.path.insert(0, str(Path(__file__).parents[1]))
from datamodules.batch import SAMPLE_RATE
from datamodules.clip_cache import ClipCache
from datamodules.media import PAD_GREY, DecodedClip, decode_audio, decode_clip, fit_frame
from datamodules.media_settings import MediaSettings, MelSettings
from datamodules.mel import log_mel
from datamodules.video import decode_video, frame_indices

OURS, CACHED = "datamodules.media", "datamodules.clip_cache"
PYAV, PYAV_THREADS, DECORD = "PyAV, 1 thread", "PyAV, default threads", "decord, 1 thread"
NOT_INSTALLED = "not installed: pip install -e '.[bench]'"
KINDS = ("640x360", "1280x720")
SECONDS = (3, 4, 5)
SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm"}

Method = Callable[[Path], DecodedClip]


@dataclass
class Figures:
    """What one method needs for one clip of one kind: medians over the repeats of means over the clips.

    Args:
        wall_seconds: time that passed.
        cpu_seconds: time of all threads of the process together.
        clips_per_second: 1 / wall_seconds.
        ratio_to_pyav: median over the repeats of PyAV's CPU time (1 thread) over this method's in the same repeat.
        ratio_range: smallest and largest of these ratios; where they lie far apart, something else used the machine.
        largest_mean_difference: of the frames to those of datamodules.media, in grey levels of 255: the largest of the
            frames' means. Neighbouring frames of the generated clips differ by 2 or more.
    """

    wall_seconds: float
    cpu_seconds: float
    clips_per_second: float
    ratio_to_pyav: float | None
    ratio_range: tuple[float, float] | None
    largest_mean_difference: float


def generate_clips(directory: Path, num_clips: int) -> dict[str, list[Path]]:
    """H.264 clips of 3 to 5 s with x264's default groups of pictures and B-frames, and AAC stereo at 44.1 kHz.

    A moving test picture with noise, of about 0.7 and 1.6 Mbit/s.
    """
    clips: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for number in range(num_clips):
        kind = KINDS[number % len(KINDS)]
        path = directory / f"{number:03d}_{kind}.mp4"
        picture = f"testsrc2=s={kind}:r=25,rotate=0.05*sin(2*t+{number}),gblur=1,noise=alls=6:allf=t:all_seed={number}"
        sound = f"anoisesrc=r=44100:a=0.3:c=pink:seed={number},aformat=channel_layouts=stereo"
        command = (
            f"ffmpeg -v error -y -f lavfi -i {picture} -f lavfi -i {sound} -t {SECONDS[number // 2 % len(SECONDS)]}"
        )
        subprocess.run([*command.split(), *f"-c:v libx264 -pix_fmt yuv420p -c:a aac {path}".split()], check=True)
        clips[kind].append(path)
    return clips


def find_clips(directory: Path, num_clips: int) -> dict[str, list[Path]]:
    """The first clips of a directory in order of their names, by size of their frames.

    Raises:
        FileNotFoundError: there is none.
    """
    clips: dict[str, list[Path]] = {}
    found = sorted(path for path in directory.rglob("*") if path.suffix.lower() in SUFFIXES)[:num_clips]
    if not found:
        raise FileNotFoundError(f"{directory}: no clip ({', '.join(sorted(SUFFIXES))}). Give another --clips DIR.")
    for path in found:
        metadata = VideoDecoder(str(path), seek_mode="approximate").metadata
        clips.setdefault(f"{metadata.width}x{metadata.height}", []).append(path)
    return clips


def optional(name: str) -> ModuleType | None:
    """A package of the `bench` extra, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def pad_and_resize(images: list[Image.Image], size: int) -> Tensor:
    """What a well-written baseline does: paste on a grey square, then resize."""
    fitted = np.empty((len(images), size, size, 3), np.uint8)
    for number, image in enumerate(images):
        side = max(image.size)
        square = Image.new("RGB", (side, side), (PAD_GREY,) * 3)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        fitted[number] = square.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(fitted).permute(0, 3, 1, 2).contiguous()


def decode_with_pyav(path: Path, settings: MediaSettings, num_threads: int | None) -> DecodedClip:
    """One pass over the file; only the frames asked for become RGB, and nothing behind the last of them is decoded."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        audio = container.streams.audio[0] if container.streams.audio else None
        num_available = video.frames or _count_packets(path)
        if num_threads is not None:
            video.codec_context.thread_count = num_threads
        wanted = frame_indices(num_available, settings.num_frames)
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        images, sound, num_decoded, num_samples = {}, [], 0, 0
        max_samples = round(settings.max_audio_seconds * SAMPLE_RATE)
        for packet in container.demux([stream for stream in (video, audio) if stream is not None]):
            if packet.stream is video and num_decoded <= wanted[-1]:
                for frame in packet.decode():
                    if num_decoded in wanted:
                        images[num_decoded] = frame.to_image()
                    num_decoded += 1
            elif packet.stream is audio and num_samples < max_samples:
                for frame in packet.decode():
                    sound += [chunk.to_ndarray()[0] for chunk in resampler.resample(frame)]
                    num_samples = sum(map(len, sound))
        if audio is not None:
            sound += [chunk.to_ndarray()[0] for chunk in resampler.resample(None)]
        seconds = (container.duration or 0) / av.time_base
    waveform = torch.from_numpy(np.concatenate(sound)[:max_samples]) if sound else torch.zeros(0)
    frames = pad_and_resize([images[index] for index in wanted], settings.image_size)
    return DecodedClip(frames, waveform, audio is not None, seconds)


def _count_packets(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))


def decode_with_decord(path: Path, settings: MediaSettings) -> DecodedClip:
    """The decoder of the paper's code, as its users call it."""
    decord = importlib.import_module("decord")
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    pixels = reader.get_batch(frame_indices(len(reader), settings.num_frames)).asnumpy()
    frames = pad_and_resize([Image.fromarray(frame) for frame in pixels], settings.image_size)
    samples = decord.AudioReader(str(path), ctx=decord.cpu(0), sample_rate=SAMPLE_RATE, mono=True)[:].asnumpy()[0]
    waveform = torch.from_numpy(samples[: round(settings.max_audio_seconds * SAMPLE_RATE)])
    return DecodedClip(frames, waveform, True, len(reader) / reader.get_avg_fps())


def available_methods(settings: MediaSettings, clip_cache: ClipCache) -> dict[str, Method | None]:
    """Each method by its name; None where its package is not installed."""
    decord = optional("decord")
    return {
        OURS: functools.partial(decode_clip, settings=settings),
        CACHED: functools.partial(clip_cache.load, settings=settings),
        PYAV: functools.partial(decode_with_pyav, settings=settings, num_threads=1),
        PYAV_THREADS: functools.partial(decode_with_pyav, settings=settings, num_threads=None),
        DECORD: decord and functools.partial(decode_with_decord, settings=settings),
    }


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(paths: list[Path], methods: dict[str, Method], repeats: int) -> dict[str, Figures]:
    """Time the methods in turns."""
    reference = [methods[OURS](path).frames.float() for path in paths]
    differences = {
        name: max(
            (method(path).frames.float() - frames).abs().mean(dim=(1, 2, 3)).max().item()
            for path, frames in zip(paths, reference, strict=True)
        )
        for name, method in methods.items()
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            wall, cpu = _timed(lambda method=method: [method(path) for path in paths])
            times[name].append((wall / len(paths), cpu / len(paths)))
    figures = {}
    for name in methods:
        walls, cpus = zip(*times[name], strict=True)
        ratios = [pyav[1] / own for pyav, own in zip(times.get(PYAV, ()), cpus, strict=False)]
        wall = statistics.median(walls)
        figures[name] = Figures(
            wall_seconds=wall,
            cpu_seconds=statistics.median(cpus),
            clips_per_second=1 / wall,
            ratio_to_pyav=statistics.median(ratios) if ratios else None,
            ratio_range=(min(ratios), max(ratios)) if ratios else None,
            largest_mean_difference=differences[name],
        )
    return figures


def measure_stages(paths: list[Path], settings: MediaSettings) -> dict[str, float]:
    """CPU seconds per clip of each stage of datamodules.media, means over the clips."""
    mel = MelSettings()
    log_mel(torch.zeros(0), mel)  # imports the extractor
    totals = dict.fromkeys(("decode 8 frames", "pad and resize", "sound", "(mel, 128 bins)"), 0.0)
    for path in paths:
        video = _timed(lambda path=path: decode_video(path, settings.num_frames))[1]
        frames, waveform = (
            decode_video(path, settings.num_frames).frames,
            decode_audio(path, settings.max_audio_seconds),
        )
        seconds = (
            video,
            _timed(
                lambda frames=frames: [fit_frame(pixels, settings.image_size, settings.frame_fit) for pixels in frames]
            )[1],
            _timed(lambda path=path: decode_audio(path, settings.max_audio_seconds))[1],
            _timed(lambda waveform=waveform: log_mel(torch.zeros(0) if waveform is None else waveform, mel))[1],
        )
        totals = {name: total + more for (name, total), more in zip(totals.items(), seconds, strict=True)}
    return {name: total / len(paths) for name, total in totals.items()}


class _Clips(Dataset):
    def __init__(self, paths: list[Path], method: Method) -> None:
        self.paths, self.method = paths, method

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> DecodedClip:
        return self.method(self.paths[number])


def measure_loader(paths: list[Path], method: Method, num_workers: int, repeats: int) -> float:
    """Clips per second through a DataLoader, the start of its workers not counted."""
    prefetch = 2
    num_warm_up = num_workers * prefetch + 1  # what is decoded while the workers start
    numbers = range(len(paths))
    order = [*itertools.islice(itertools.cycle(numbers), num_warm_up), *list(numbers) * repeats]
    loader = DataLoader(
        _Clips(paths, method),
        1,
        sampler=order,
        num_workers=num_workers,
        prefetch_factor=prefetch if num_workers else None,
        collate_fn=lambda clips: clips,
    )
    batches = iter(loader)
    for _ in range(num_warm_up):
        next(batches)
    started = time.perf_counter()
    num_clips = sum(len(batch) for batch in batches)
    return num_clips / (time.perf_counter() - started)


def show(console: Console, kind: str, num_clips: int, result: dict) -> None:
    """Print the figures of one kind of clip."""
    table = Table(title=f"{kind}, {num_clips} clips, one worker")
    for column in ("", "clips/s", "× PyAV", "(range)", "wall ms", "CPU ms", "frames differ by"):
        table.add_column(column, justify="left" if not column else "right")
    for name, figures in result["methods"].items():
        if figures is None:
            table.add_row(name, escape(NOT_INSTALLED))
            continue
        ratio = "–" if figures["ratio_to_pyav"] is None else f"{figures['ratio_to_pyav']:.2f}"
        low_high = "–" if figures["ratio_range"] is None else "{:.2f}–{:.2f}".format(*figures["ratio_range"])
        times = f"{figures['wall_seconds'] * 1e3:.1f}", f"{figures['cpu_seconds'] * 1e3:.1f}"
        difference = f"{figures['largest_mean_difference']:.2f}"
        table.add_row(name, f"{figures['clips_per_second']:.1f}", ratio, low_high, *times, difference)
    console.print(table)
    stages = ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in result["stages"].items())
    console.print(f"CPU ms per clip of {OURS}: {stages}")
    for name, clips_per_second in result["loader"].items():
        console.print(f"DataLoader, {name}: {clips_per_second:.1f} clips/s")


def processor_name() -> str:
    """Model of the processor where Linux tells, else its architecture."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="directory of clips; without it they are generated with ffmpeg")
    parser.add_argument("--num_clips", type=int, default=24, help="clips of all kinds together (default 24)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds in which the methods take turns (default 5)")
    parser.add_argument("--num_workers", type=int, default=1, help="of the DataLoader row (default 1)")
    parser.add_argument("--output", type=Path, help="JSON file for the figures, with machine and versions")
    arguments = parser.parse_args()
    if arguments.num_clips < len(KINDS) or arguments.repeats < 1 or arguments.num_workers < 0:
        parser.error(f"Expected --num_clips >= {len(KINDS)}, --repeats >= 1, --num_workers >= 0.")
    return arguments


def main() -> None:
    """Measure, print and write."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    console, settings = Console(width=110), MediaSettings()
    packages = ("torch", "torchcodec", "av", "pillow", *(["decord"] if optional("decord") else []))
    report = {
        "machine": {"processor": processor_name(), "num_cores": os.cpu_count()},
        "load_average": os.getloadavg(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "settings": asdict(settings),
        "arguments": {name: value if value is None else str(value) for name, value in vars(arguments).items()},
        "kinds": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        clips = (
            find_clips(arguments.clips, arguments.num_clips)
            if arguments.clips
            else generate_clips(directory, arguments.num_clips)
        )
        clip_cache = ClipCache(directory / "cache", max_gigabytes=10)
        for kind, paths in clips.items():
            for path in paths:
                clip_cache.store(path, settings, decode_clip(path, settings))
            methods = available_methods(settings, clip_cache)
            measured = measure(paths, {name: method for name, method in methods.items() if method}, arguments.repeats)
            result = report["kinds"][kind] = {
                "num_clips": len(paths),
                "mean_bytes": statistics.mean(path.stat().st_size for path in paths),
                "methods": {name: asdict(measured[name]) if name in measured else None for name in methods},
                "stages": measure_stages(paths, settings),
                "loader": {
                    f"{name}, num_workers={arguments.num_workers}": measure_loader(
                        paths, methods[name], arguments.num_workers, arguments.repeats
                    )
                    for name in (OURS, CACHED)
                },
            }
            show(console, kind, len(paths), result)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")
        console.print(f"Wrote {arguments.output}")


if __name__ == "__main__":
    main()
