"""What a policy said of a batch of clips, and the figures of a test."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torchmetrics import SumMetric

from datamodules.batch import ClipBatch
from datamodules.emotions import Taxonomy
from datamodules.media_settings import Modality
from datamodules.rationale import Response
from datamodules.synthetic.truth import CorpusTruth, read_truth
from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.metrics.claims import match_truth
from lightning_modules.metrics.emotion_report import CountedClip, EmotionReport
from lightning_modules.metrics.emotion_sets import SetCounts
from lightning_modules.metrics.grounding import Grounding
from lightning_modules.metrics.reliance import Reliance
from lightning_modules.metrics.reliance_report import RelianceReport
from lightning_modules.metrics.unread_answers import UnreadAnswers
from lightning_modules.processes import counted_over_processes
from lightning_modules.protocol import Protocol


@dataclass
class Evaluation:
    """One evaluated batch: what the policy said of each clip, and what was read in it.

    Args:
        batch: the clips.
        responses: one per clip; empty text for a clip that could not be decoded.
        readings: the verifier's reading of each response's sentences, or None without a verifier.
        verdicts: the judge's emotion of each rationale (None: invalid), or None without a judge.
        reliances: what each response's sentences rest on, or None where nobody asked, or the batch has a single clip.
        more: the same of the further samples of each clip.
    """

    batch: ClipBatch
    responses: list[Response]
    readings: list[list[SentenceReading]] | None
    verdicts: list[str | None] | None
    reliances: list[list[Reliance]] | None = None
    more: list["Evaluation"] = field(default_factory=list)

    @property
    def predictions(self) -> list[str | None]:
        """Canonical emotion of each answer; None where it names no class."""
        return [response.prediction for response in self.responses]


def num_lacking(batch: ClipBatch, modality: Modality) -> int:
    """Decoded clips of a batch that have no sound, or no pictures."""
    there = batch.has_audio if modality == "sound" else batch.has_video
    return sum(not has and failure is None for has, failure in zip(there.tolist(), batch.failures, strict=True))


class TestFigures(nn.Module):
    """Everything that a test counts, of the first sample of each clip.

    Args:
        taxonomy: the classes.
        judge: name of the judge; None without one.
        protocol: whose EEA and UAR.
        truth: synthetic.json of the tested corpus, to count how much of the rationales is true; None: not known.
        with_reliance: whether it is measured what sentences rest on.

    Raises:
        FileNotFoundError: no file at `truth`.
        ValueError: it is no such file.
    """

    __test__ = False  # pytest takes the name for a test's

    def __init__(
        self, taxonomy: Taxonomy, judge: str | None, protocol: Protocol, truth: str | None, with_reliance: bool
    ) -> None:
        super().__init__()
        self.taxonomy = taxonomy
        self.report = EmotionReport(taxonomy, judge, protocol)
        self.truth: CorpusTruth | None = None if truth is None else read_truth(truth)
        self.grounding = Grounding()
        self.with_reliance = with_reliance
        self.reliance = RelianceReport()
        self.silent_clips = SumMetric()
        self.dark_clips = SumMetric()
        self.undecodable_clips = SumMetric()
        self._reset_counts()

    def _reset_counts(self) -> None:
        self.unread_answers = UnreadAnswers()
        self.clips: Counter[CountedClip] = Counter()
        self.emotion_sets = SetCounts()

    def reset(self) -> None:
        """Begin a test: not at the end of one, whose figures are read later."""
        counts = (self.silent_clips, self.dark_clips, self.undecodable_clips)
        for metric in (self.report, self.grounding, self.reliance, *counts):
            metric.reset()
        self._reset_counts()

    def update(self, evaluation: Evaluation) -> None:
        """Count a batch."""
        batch, responses, predictions = evaluation.batch, evaluation.responses, evaluation.predictions
        verdicts = evaluation.verdicts
        self.report.update_clips(predictions, batch.targets, verdicts)
        self._update_grounding(evaluation)
        self.unread_answers.update(responses)
        self.emotion_sets.update([response.answer for response in responses], batch.targets, self.taxonomy)
        self.clips.update(map(CountedClip, batch.datasets, predictions, batch.targets, verdicts or [None] * len(batch)))
        self.silent_clips.update(float(num_lacking(batch, "sound")))
        self.dark_clips.update(float(num_lacking(batch, "pictures")))
        self.undecodable_clips.update(float(sum(failure is not None for failure in batch.failures)))

    def _update_grounding(self, evaluation: Evaluation) -> None:
        batch, truths = evaluation.batch, None
        sentences = [own.sentences for own in evaluation.responses]
        if self.truth is not None:
            truths = match_truth(zip(batch.ids, batch.media, batch.targets, strict=True), "test", self.truth)
            self.grounding.update(sentences, truths, evaluation.predictions, evaluation.verdicts)
        if evaluation.reliances is not None:
            self.reliance.update(sentences, evaluation.reliances, truths)

    def gather(self) -> None:
        """Add up what the processes counted; every one calls it, once, at the end."""
        self.unread_answers.counts = counted_over_processes(self.unread_answers.counts)
        self.clips = counted_over_processes(self.clips)
        self.emotion_sets = SetCounts(counted_over_processes(self.emotion_sets.clips))

    def of_grounding(self) -> dict[str, Any]:
        """Figures of `Grounding`; none where the truth is not known."""
        return {} if self.truth is None else self.grounding.compute()

    def of_reliance(self) -> dict[str, Any]:
        """Figures of `RelianceReport`; none where it was not measured."""
        return self.reliance.compute() if self.with_reliance else {}

    def compute(self) -> dict[str, Any]:
        """All figures, as `metrics.json` has them; see `PolicyModule.metrics_report`."""
        grounding, reliance = self.of_grounding(), self.of_reliance()
        corpora = self.report.of_corpora(self.clips)
        return {
            **self.report.compute(),
            **({"corpora": corpora} if corpora else {}),
            **({"emotion_sets": self.emotion_sets.compute()} if self.emotion_sets.has_sets else {}),
            **({"grounding": grounding} if grounding else {}),
            **({"reliance": reliance} if reliance else {}),
            "unread_answers": self.unread_answers.commonest(),
            "clips_without_audio": int(self.silent_clips.compute()),
            "clips_without_video": int(self.dark_clips.compute()),
            "undecodable_clips": int(self.undecodable_clips.compute()),
        }
