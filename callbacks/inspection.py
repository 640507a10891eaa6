"""What the model says, in TensorBoard's text tab: every sentence marked by what the verifier read in it."""

import html
from collections.abc import Sequence

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from datamodules.batch import ClipBatch
from datamodules.emotions import target_labels
from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.grpo import GRPOModule
from lightning_modules.policy import Evaluation
from lightning_modules.rationale import Response

LEGEND = "🟩 the verifier reads the target emotion · ⬜ neutral · 🟥 another emotion"


def mark(reading: SentenceReading, target: str | None) -> str:
    """🟩 when the target's verifier label is in the sentence's label set, else ⬜ when it is only neutral, else 🟥."""
    if target is not None and not target_labels(target).isdisjoint(reading.emotions):
        return "🟩"
    return "⬜" if reading.emotions == ("neutral",) else "🟥"


def marked_rationale(response: Response, readings: Sequence[SentenceReading] | None, target: str | None) -> str:
    """The completion as Markdown: its sentences, each with its mark and the emotions read in it, then the answer.

    Generated text is escaped: it can show as nothing but text.
    """
    if readings is None:
        sentences = [_escape(sentence) for sentence in response.sentences]
    else:
        sentences = [f"{mark(r, target)} {_escape(r.text)} *({', '.join(r.emotions)})*" for r in readings]
    body = "<br>".join(sentences) if sentences else f"no rationale: `{_escape(response.completion)[:200]}`"
    answer = "no answer" if response.answer is None else _escape(response.answer)
    return f"{body}<br>→ **{answer}**"


def _escape(text: str) -> str:
    """Plain text inside a Markdown table cell."""
    escaped = html.escape(text, quote=False).replace("\n", " ")
    return "".join(f"\\{c}" if c in "\\`*_[]|" else c for c in escaped)


class InspectionCallback(Callback):
    """Logs completions as text: in stage 3 the group whose rewards differ most, and the first clips of each evaluation.

    Args:
        every_n_steps: training steps between two logged groups.
        num_clips: validation or test clips shown.
    """

    def __init__(self, every_n_steps: int = 20, num_clips: int = 8) -> None:
        if every_n_steps < 1 or num_clips < 1:
            raise ValueError(f"Expected every_n_steps >= 1 and num_clips >= 1, got {every_n_steps} and {num_clips}.")
        self.every_n_steps = every_n_steps
        self.num_clips = num_clips
        self._rows: list[str] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: ClipBatch, batch_idx: int
    ) -> None:
        if not isinstance(pl_module, GRPOModule) or pl_module.experience is None or batch_idx % self.every_n_steps:
            return
        experience = pl_module.experience
        rollout, names = experience.rollout, list(experience.rewards)
        size = pl_module.group_size
        group = int(experience.total.view(-1, size).std(dim=1).argmax())
        target = rollout.targets[group * size]
        lines = [
            f"Clip **{_escape(rollout.batch.ids[group])}**, target **{target}**. {LEGEND}",
            "",
            f"| completion | {' | '.join(names)} | advantage |",
            f"|---|{'---|' * (len(names) + 1)}",
        ]
        for i in range(group * size, (group + 1) * size):
            readings = None if experience.readings is None else experience.readings[i]
            cells = [marked_rationale(rollout.responses[i], readings, target)]
            cells += [f"{experience.rewards[name][i].item():.2f}" for name in names]
            lines.append(f"| {' | '.join(cells)} | {experience.advantages[i].item():+.2f} |")
        self._write(trainer, "rollouts/most_divided_group", "\n".join(lines))

    def _collect(self, evaluation: Evaluation) -> None:
        for i, response in enumerate(evaluation.responses):
            if len(self._rows) >= self.num_clips:
                return
            batch = evaluation.batch
            readings = None if evaluation.readings is None else evaluation.readings[i]
            verdict = "–" if evaluation.verdicts is None else evaluation.verdicts[i] or "invalid"
            rationale = marked_rationale(response, readings, batch.targets[i])
            self._rows.append(f"| {_escape(batch.ids[i])} | {batch.targets[i]} | {verdict} | {rationale} |")

    def _flush(self, trainer: Trainer, tag: str) -> None:
        header = [LEGEND, "", "| clip | target | judged | completion |", "|---|---|---|---|"]
        if self._rows:
            self._write(trainer, tag, "\n".join(header + self._rows))
        self._rows = []

    def _write(self, trainer: Trainer, tag: str, markdown: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text(tag, markdown, trainer.global_step)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(outputs, Evaluation):
            self._collect(outputs)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer, "validation/completions")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer, "test/completions")
