"""The line of clips: one after the other is explained, as long as its reader is there."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from datamodules.ablation import Ablation
from datamodules.batch import Clip
from datamodules.clip_dataset import ClipDataset
from datamodules.clip_source import INSTRUCTION, ClipRecord
from datamodules.media_settings import MediaSettings
from tools.app.explainer import Explainer
from tools.command_line import is_meant_to_be_read, one_sentence, whole_story

_UNEXPECTED = "This failed; the terminal says where."
_OF_PARTS: tuple[Ablation, ...] = ("video_only", "audio_only")


class _GoneError(Exception):
    """Nobody is there any more who would read it."""


class Line:
    """Explains clips in one thread; of each reader the latest only.

    Args:
        explainers: the models, in the order of the page.
        timeout_seconds: longest time for decoding a clip.
    """

    def __init__(self, explainers: Sequence[Explainer], timeout_seconds: float) -> None:
        self.explainers = explainers
        self.timeout_seconds = timeout_seconds
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._tickets = count()
        self._latest: dict[str, int] = {}

    def enter(self, reader: str) -> int:
        """A ticket for a reader's next clip; what is written of the one before ends."""
        self._latest[reader] = next(self._tickets)
        return self._latest[reader]

    def close(self) -> None:
        """End what is being written, and wait for it."""
        self._latest.clear()
        self._worker.shutdown(cancel_futures=True)

    def explain(self, file: str, reader: str, ticket: int) -> Iterator[list[dict[str, Any]]]:
        """Decode a clip and have each model explain it, whole and in part; closing the iterator ends that.

        Yields:
            What is new: `{"clip", "modes"}` first, then states of `Explainer.explain` with their `model`, a number, and
            `mode`; or the one `{"error": a sentence}`.
        """
        events: SimpleQueue[dict[str, Any]] = SimpleQueue()

        def tell(event: dict[str, Any]) -> None:
            if self._latest.get(reader) != ticket:
                raise _GoneError
            events.put(event)

        work = self._worker.submit(self._explain, file, tell)
        try:
            while not work.done() or not events.empty():
                with suppress(Empty):
                    yield [events.get(timeout=0.1), *(events.get() for _ in range(events.qsize()))]
            error = work.exception()
            if error is not None and not isinstance(error, _GoneError):
                print(whole_story(error), file=sys.stderr)
                said = one_sentence(error, "app") if is_meant_to_be_read(error) else _UNEXPECTED
                yield [{"error": said}]
        finally:
            if self._latest.get(reader) == ticket:
                del self._latest[reader]

    def _explain(self, file: str, tell: Callable[[dict[str, Any]], None]) -> None:
        clips = {own: self._decode(file, own) for own in dict.fromkeys(model.media for model in self.explainers)}
        first = clips[self.explainers[0].media]
        if first.failure is not None:
            tell({"error": f"The clip was not decoded: {first.failure}."})
            return
        # Of sound or pictures alone nothing, or all, would be taken away.
        modes: list[Ablation] = ["full", *(_OF_PARTS if first.has_video and first.has_audio else ())]
        tell({"clip": first, "modes": modes})
        for number, model in enumerate(self.explainers):
            for mode in modes:
                where = {"model": number, "mode": mode}
                model.explain(clips[model.media], mode, lambda state, where=where: tell(where | state))

    def _decode(self, file: str, settings: MediaSettings) -> Clip:
        """The clip, read in a process of its own; with its `failure` where that crashed, or took too long."""
        record = ClipRecord("clip", file, None, None, "the page", may_lack=("sound", "pictures"))
        limits = {"cache_in_memory": False, "timeout_seconds": self.timeout_seconds}
        return ClipDataset([record], settings, INSTRUCTION, "skip", **limits)[0]
