"""One model that explains clips, and what it has said so far at each moment."""

import re
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from datamodules.ablation import Ablation, ablate
from datamodules.batch import Clip, collate
from datamodules.emotions import Taxonomy
from datamodules.media_settings import MediaSettings
from datamodules.rationale import read_response
from lightning_modules.backbones.interface import Backbone, Sampling
from lightning_modules.emotion_verifier import EmotionVerifier, SentenceReading
from lightning_modules.judges.verifier_judge import verifier_verdict
from lightning_modules.policy import check_sampled

_SECONDS_BETWEEN = 0.05
"""Between two states that are shown while a completion is written."""
_CUT_TAG = re.compile(r"</?\w*$")


class Explainer:
    """A policy and the verifier that reads what it says.

    Args:
        backbone: the policy; says how clips are decoded, too.
        taxonomy: the classes that answers are read with.
        verifier: None: sentences stay unread.
        sampling: how completions are drawn.
    """

    def __init__(
        self, backbone: Backbone, taxonomy: Taxonomy, verifier: EmotionVerifier | None, sampling: Sampling
    ) -> None:
        self.backbone = backbone
        self.taxonomy = taxonomy
        self.verifier = verifier
        self.sampling = sampling
        self.media = MediaSettings(num_frames=backbone.num_frames, image_size=backbone.image_size)

    @torch.no_grad()
    def explain(self, clip: Clip, mode: Ablation, show: Callable[[dict[str, Any]], None]) -> None:
        """Explain a clip, or what an ablation leaves of it.

        Args:
            clip: decoded as `media` says.
            mode: what the model is given of it.
            show: is given each state of the completion, the last with `done`: `sentences` with the emotions that the
                verifier reads in them, `writing` (the sentence that is not whole yet), `completion`, `answer`,
                `prediction`, `judged`. What it raises ends the completion.

        Raises:
            ValueError: the policy's numbers are broken.
        """
        batch = ablate(collate([clip]).to(next(self.backbone.parameters()).device), mode)
        read: dict[str, SentenceReading] = {}
        shown_at = time.monotonic()

        def watch(token_ids: Tensor) -> None:
            nonlocal shown_at
            if time.monotonic() - shown_at >= _SECONDS_BETWEEN:
                text = self.backbone.tokenizer.decode(token_ids[0], skip_special_tokens=True)
                show(self._state(text, read, done=False))
                shown_at = time.monotonic()

        prompt = self.backbone.encode(batch, self.backbone.perceive(batch))
        completions = self.backbone.generate(prompt, 1, self.sampling, watch)
        check_sampled(completions, [clip.id])
        state = self._state(self.backbone.texts(completions)[0], read, done=True)
        show(state | {"cut": not bool(completions.finished[0])})

    def _state(self, text: str, read: dict[str, SentenceReading], done: bool) -> dict[str, Any]:
        """What is known of a completion; `read` keeps the verifier's readings from one state to the next."""
        written = text if done else _CUT_TAG.sub("", text)
        opened, closed = "<think>" in written, "</think>" in written
        sentences = read_response(f"{written}</think>" if opened and not closed else written, self.taxonomy).sentences
        whole = sentences if closed or done else sentences[:-1]
        writing = "".join(sentences[len(whole) :]) if opened else "" if done else written
        response = read_response(text, self.taxonomy)
        readings = self._readings(whole, read)
        return {
            "sentences": [
                {"text": sentence, "emotions": None if readings is None else list(readings[i].emotions)}
                for i, sentence in enumerate(whole)
            ],
            "writing": writing,
            "completion": text,
            "answer": response.answer,
            "prediction": response.prediction,
            # A verdict, as every evaluation has it: on what is read as a rationale.
            "judged": verifier_verdict(readings, self.taxonomy) if readings and response.rationale else None,
            "done": done,
        }

    def _readings(self, sentences: tuple[str, ...], read: dict[str, SentenceReading]) -> list[SentenceReading] | None:
        if self.verifier is None:
            return None
        unread = [sentence for sentence in dict.fromkeys(sentences) if sentence not in read]
        if unread:
            read.update(zip(unread, self.verifier.read(unread), strict=True))
        return [read[sentence] for sentence in sentences]
