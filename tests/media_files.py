"""Small media files of many containers and codecs, made with the encoders that PyAV brings."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FRAMES_PER_SECOND = 25
NUM_FRAMES = 6


def encode(
    path: Path,
    container: str,
    video: str,
    audio: str | None = None,
    *,
    width: int = 64,
    height: int = 48,
    title: str = "",
    cover: bool = False,
) -> Path:
    """Six frames, brighter from one to the next, and as much sound.

    Args:
        path: of the file.
        container: FFmpeg's name of it.
        video: encoder of the pictures.
        audio: encoder of the sound; None: no sound.
        width: of the pictures, in pixels.
        height: of the pictures, in pixels.
        title: of the file.
        cover: the pictures are marked as the cover of the sound.
    """
    with av.open(str(path), "w", format=container) as output:
        if title:
            output.metadata["title"] = title
        pictures = output.add_stream(
            video, rate=FRAMES_PER_SECOND, options={"preset": "ultrafast", "deadline": "realtime"}
        )
        pictures.width, pictures.height = width, height
        pictures.pix_fmt = (pictures.codec.video_formats or [av.VideoFormat("yuv420p")])[0].name
        if cover:
            pictures.disposition = av.stream.Disposition.attached_pic
        sound = None if audio is None else output.add_stream(audio, rate=48_000 if audio == "libopus" else 44_100)
        if sound is not None:
            sound.layout, sound.bit_rate = "mono", 64_000
        noise = np.random.default_rng(0)
        for number in range(NUM_FRAMES):
            pixels = np.full((height, width, 3), 40 * number, np.uint8)
            pixels[8:24, 8 + number : 24 + number] = noise.integers(0, 256, (16, 16, 3))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FRAMES_PER_SECOND)
            output.mux(pictures.encode(frame))
        output.mux(pictures.encode(None))
        if sound is not None:
            samples = noise.uniform(
                -0.3, 0.3, (len(sound.layout.channels), sound.rate * NUM_FRAMES // FRAMES_PER_SECOND)
            ).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=sound.layout.name)
            frame.rate, frame.pts, frame.time_base = sound.rate, 0, Fraction(1, sound.rate)
            output.mux(sound.encode(frame))
            output.mux(sound.encode(None))
    return path
