"""The app's server: one page, and one address to which it sends a clip and from which it reads what models say.

Everything stands in one process of one machine: clips wait in a line, and are explained one after the other.
"""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from callbacks.pictures import frame_strip, spectrogram
from datamodules.batch import Clip
from datamodules.clip_dataset import ClipDataset
from datamodules.clip_source import INSTRUCTION, ClipRecord
from datamodules.media_settings import MediaSettings
from tools.app.explainer import Explainer
from tools.app.page_data import MODES
from tools.command_line import is_meant_to_be_read, one_sentence, whole_story
from tools.report.media import data_uri, jpeg

BODY_TYPE = "application/octet-stream"
"""Pages of other origins cannot send this without asking first, which nothing here answers."""

_STRIP_HEIGHT, _SPECTROGRAM_HEIGHT = 112, 44
_SECONDS_BETWEEN_LOOKS = 1.0
_MOST_WAITING = 16
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _GoneError(Exception):
    """Nobody is there any more who would read it."""


class _Job:
    """A clip in the line, and what is to be told of it; `tell` is called in the working thread."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.gone = threading.Event()
        self._loop = asyncio.get_running_loop()

    def tell(self, event: dict[str, Any] | None) -> None:
        if self.gone.is_set():
            raise _GoneError
        self._loop.call_soon_threadsafe(self.events.put_nowait, event)


class Server:
    """Explains clips that a page sends, one at a time.

    Args:
        explainers: the models, in the order of the page.
        page: the page as HTML.
        directory: where clips lie until they are decoded.
        max_bytes: of a clip's file.
        timeout_seconds: longest time for decoding it.
    """

    def __init__(
        self, explainers: Sequence[Explainer], page: str, directory: Path, max_bytes: int, timeout_seconds: float
    ) -> None:
        self.explainers = explainers
        self.page = page
        self.directory = directory
        self.max_bytes = max_bytes
        self.timeout_seconds = timeout_seconds
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._line: list[_Job] = []

    def app(self, hosts: Sequence[str]) -> Starlette:
        """The application; it answers requests to the given hosts only, `*` for any."""
        routes = [Route("/", self._show), Route("/explain", self._explain, methods=["POST"])]
        return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))])

    def close(self) -> None:
        """End what is being written, and wait for it."""
        for job in list(self._line):
            job.gone.set()
        self._worker.shutdown(cancel_futures=True)

    async def _show(self, request: Request) -> Response:
        return HTMLResponse(self.page, headers=_HEADERS)

    async def _explain(self, request: Request) -> Response:
        if request.headers.get("content-type") != BODY_TYPE:
            return PlainTextResponse(f"Expected a media file as {BODY_TYPE}.", 415)
        if len(self._line) >= _MOST_WAITING:
            return PlainTextResponse(f"{len(self._line)} clips are waiting already. Try again later.", 503)
        file = await self._receive(request)
        if file is None:
            return PlainTextResponse(f"The file has more than {self.max_bytes / 1e6:g} MB.", 413)
        job = _Job()
        self._line.append(job)
        self._worker.submit(self._work, job, file)
        return StreamingResponse(self._lines(job), media_type="application/x-ndjson", headers=_HEADERS)

    async def _receive(self, request: Request) -> Path | None:
        """The body as a file that this process' user alone may read; None where it is too long."""
        size = 0
        with NamedTemporaryFile(dir=self.directory, delete=False) as file:
            try:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self.max_bytes:
                        break
                    file.write(chunk)
            except ClientDisconnect:
                size = self.max_bytes + 1
        if size <= self.max_bytes:
            return Path(file.name)
        Path(file.name).unlink()
        return None

    async def _lines(self, job: _Job) -> AsyncIterator[str]:
        """What there is to be told, a JSON object per line, with the place in the line while there is nothing else."""
        try:
            while True:
                try:
                    event = await asyncio.wait_for(job.events.get(), _SECONDS_BETWEEN_LOOKS)
                except TimeoutError:
                    event = {"event": "place", "ahead": self._line.index(job) if job in self._line else 0}
                if event is None:
                    return
                yield json.dumps(event) + "\n"
        finally:
            job.gone.set()

    def _work(self, job: _Job, file: Path) -> None:
        try:
            explain(self.explainers, file, self.timeout_seconds, job.tell)
        except _GoneError:
            pass
        except Exception as error:  # noqa: BLE001 (the next clip can still be explained)
            print(whole_story(error), file=sys.stderr)
            said = one_sentence(error, "app") if is_meant_to_be_read(error) else "This failed; the terminal says where."
            with suppress(_GoneError):
                job.tell({"event": "error", "text": said})
        finally:
            file.unlink(missing_ok=True)
            self._line.remove(job)
            with suppress(_GoneError, RuntimeError):  # the event loop may have ended
                job.tell(None)


def explain(
    explainers: Sequence[Explainer], file: Path, timeout_seconds: float, tell: Callable[[dict[str, Any]], None]
) -> None:
    """Decode a clip, remove its file, and have each model explain it, whole and in part.

    Args:
        explainers: the models.
        file: the clip.
        timeout_seconds: longest time for decoding it.
        tell: is given `{"event": "clip", ...}`, then one state after the other, `{"event": "said", ...}`; or the one
            `{"event": "error", "text"}`.
    """
    clips: dict[MediaSettings, Clip] = {}
    for explainer in explainers:
        if explainer.media not in clips:
            clips[explainer.media] = _decode(file, explainer.media, timeout_seconds)
    file.unlink()
    first = clips[explainers[0].media]
    if first.failure is not None:
        tell({"event": "error", "text": f"The clip was not decoded: {first.failure}."})
        return
    modes = [
        mode
        for mode in MODES
        if mode == "full" or (first.has_video and first.has_audio)  # else nothing, or all, would be taken away
    ]
    strip = frame_strip(first.frames, _STRIP_HEIGHT, first.has_video)
    sound = spectrogram(first.waveform, _SPECTROGRAM_HEIGHT, strip.width)
    tell(
        {
            "event": "clip",
            "strip": data_uri("image/jpeg", jpeg(strip)),
            "spectrogram": data_uri("image/jpeg", jpeg(sound)),
            "seconds": round(first.duration_seconds, 1),
            "modes": modes,
        }
    )
    for number, explainer in enumerate(explainers):
        for mode in modes:
            where = {"event": "said", "model": number, "mode": mode}
            explainer.explain(clips[explainer.media], mode, lambda state, where=where: tell(where | state))


def _decode(file: Path, settings: MediaSettings, timeout_seconds: float) -> Clip:
    """The clip, read in a process of its own; with its `failure` where that crashed, or took too long."""
    record = ClipRecord("clip", str(file), None, None, "the page", may_lack=("sound", "pictures"))
    return ClipDataset([record], settings, INSTRUCTION, "skip", cache_in_memory=False, timeout_seconds=timeout_seconds)[
        0
    ]
