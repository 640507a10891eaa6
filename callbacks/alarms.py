"""Reward-hacking alarms during a run: logged in stage 3 and after each evaluation, with a warning when one goes off."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from callbacks.predictions import score_evaluation
from datamodules.batch import ClipBatch
from datamodules.emotions import Taxonomy
from datamodules.rationale import Response
from lightning_modules.emotion_verifier import EmotionVerifier, SentenceReading
from lightning_modules.evaluation import Evaluation
from lightning_modules.grpo import GRPOModule
from lightning_modules.metrics.rationale_statistics import (
    LabelSets,
    Ratio,
    Rationale,
    rationale_statistics,
)
from lightning_modules.metrics.reward_hacking import (
    Alarm,
    Bounds,
    check_thresholds,
    make_alarms,
    predicted_rationale,
)
from lightning_modules.policy import PolicyModule
from lightning_modules.rl.experience import Experience, experience_of

Ratios = dict[str, Ratio]


def evaluation_rationales(
    evaluation: Evaluation, taxonomy: Taxonomy, second: list[list[SentenceReading]] | None = None
) -> list[Rationale]:
    """The rationales of an evaluated batch, as those of a prediction file; clips that do not decode are left out.

    Args:
        evaluation: the batch.
        taxonomy: the classes.
        second: a second verifier's reading of the same sentences.
    """
    return [
        replace(predicted_rationale(prediction), second=None if second is None else label_sets(second[i]))
        for i, prediction in enumerate(score_evaluation(evaluation, taxonomy))
        if prediction.failure is None
    ]


def experience_rationales(
    experience: Experience, second: Sequence[Sequence[SentenceReading]] | None = None
) -> list[Rationale]:
    """The completions of a training step; lengths in tokens, rewards as the advantages are computed from them.

    Args:
        experience: the step's.
        second: a second verifier's reading of the same sentences.
    """
    rollout = experience.rollout
    clips = [clip for clip in rollout.batch.ids for _ in range(rollout.group_size)]
    rewards, lengths = experience.total.tolist(), rollout.completions.lengths.tolist()
    return [
        Rationale(
            clip=clips[row],
            sentences=response.sentences,
            emotions=None if experience.readings is None else label_sets(experience.readings[row]),
            target=rollout.targets[row],
            prediction=response.prediction,
            reward=rewards[row],
            length=lengths[row],
            second=None if second is None else label_sets(second[row]),
            completion=response.completion,
        )
        for row, response in enumerate(rollout.responses)
    ]


def label_sets(readings: Sequence[SentenceReading]) -> LabelSets:
    """The label set of each reading."""
    return tuple(reading.emotions for reading in readings)


class AlarmCallback(Callback):
    """Logs `alarm/<name>` in stage 3, `val_alarm/<name>` and `test_alarm/<name>` after an evaluation; warns of some.

    `lightning_modules.metrics.reward_hacking.CHECKS` has meanings and default thresholds. What has no value is not
    logged. An alarm warns once, and again only after it has been silent. Numerators and denominators are summed over
    processes.

    Args:
        every_n_steps: batches of stage 3 between two measurements.
        window: measurements in training that are pooled for a value; no warning before there are as many.
        thresholds: name → [low, high], each a number or null, instead of an alarm's defaults.
        second_verifier: Hugging Face directory or hub id of a verifier that gives no reward. It reads what the
            measurements see, and what is evaluated.

    Raises:
        ValueError: counts below one, thresholds of an unknown name, or low above high.
    """

    def __init__(
        self,
        every_n_steps: int = 10,
        window: int = 5,
        thresholds: dict[str, Bounds] | None = None,
        second_verifier: str | None = None,
    ) -> None:
        if every_n_steps < 1 or window < 1:
            raise ValueError(f"Expected every_n_steps >= 1 and window >= 1, got {every_n_steps} and {window}.")
        check_thresholds(thresholds or {})
        self.every_n_steps = every_n_steps
        self.thresholds: Mapping[str, Bounds] = thresholds or {}
        self.second_verifier = second_verifier
        self._second: EmotionVerifier | None = None
        self._measured: deque[Ratios] = deque(maxlen=window)
        self._evaluated: list[Rationale] = []
        self._warned: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.second_verifier is None or self._second is not None:
            return
        if not isinstance(pl_module, PolicyModule) or pl_module.verifier is None:
            raise ValueError(
                "AlarmCallback has a second verifier to compare with the model's, and the model has none: set "
                "model.verifier, or leave second_verifier out."
            )
        if pl_module.verifier.path == self.second_verifier:
            raise ValueError(
                f"The second verifier {self.second_verifier} is the model's own: they never differ. Name one that was "
                "trained on other data or from other weights."
            )
        self._second = EmotionVerifier(self.second_verifier, taxonomy=pl_module.taxonomy.name).to(pl_module.device)

    def _read(self, module: LightningModule, responses: list[Response]) -> list[list[SentenceReading]] | None:
        """The second verifier's readings, all sentences in one pass."""
        if self._second is None:
            return None
        return self._second.to(module.device).read_groups([response.sentences for response in responses])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: ClipBatch, batch_idx: int
    ) -> None:
        # Counted over epochs: an epoch can be shorter than the distance between two measurements.
        step = trainer.fit_loop.total_batch_idx
        if not isinstance(pl_module, GRPOModule) or (step + 1) % self.every_n_steps:
            return
        # A process whose clips all failed has nothing to add, and takes part in the sum like the others.
        rationales, experience = [], experience_of(outputs)
        if experience is not None:
            second = None if experience.readings is None else self._read(pl_module, experience.rollout.responses)
            rationales = experience_rationales(experience, second)
        self._measured.append(_summed_over_processes(trainer, rationale_statistics(rationales, pl_module.taxonomy)))
        alarms = make_alarms(_pooled(self._measured), self.thresholds)
        values = _values("alarm", alarms)
        pl_module.log_dict(values, logger=False)
        # Directly: Lightning drops what is logged between two multiples of log_every_n_steps.
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
        if len(self._measured) == self._measured.maxlen:
            self._warn("alarm", alarms, f"at step {step}")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(outputs, Evaluation) and not trainer.sanity_checking:
            self._evaluated += evaluation_rationales(
                outputs, pl_module.taxonomy, self._read(pl_module, outputs.responses)
            )

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, "val_alarm")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, "test_alarm")

    def _finish(self, trainer: Trainer, module: LightningModule, prefix: str) -> None:
        rationales, self._evaluated = self._evaluated, []
        if not isinstance(module, PolicyModule) or trainer.sanity_checking:
            return
        ratios = _summed_over_processes(trainer, rationale_statistics(rationales, module.taxonomy))
        alarms = make_alarms(ratios, self.thresholds)
        module.log_dict(_values(prefix, alarms), sync_dist=True)
        self._warn(prefix, alarms, f"after step {trainer.global_step}")

    def _warn(self, prefix: str, alarms: list[Alarm], when: str) -> None:
        for alarm in alarms:
            name = f"{prefix}/{alarm.name}"
            if not alarm.warns:
                self._warned.discard(name)
            elif name not in self._warned:
                self._warned.add(name)
                rank_zero_warn(
                    f"{name} is {alarm.value:.3g} {when}; expected {alarm.expected}. It is the {alarm.meaning}. "
                    f"{alarm.advice}"
                )


def _values(prefix: str, alarms: list[Alarm]) -> dict[str, float]:
    return {f"{prefix}/{alarm.name}": alarm.value for alarm in alarms if alarm.value is not None}


def _pooled(measured: deque[Ratios]) -> Ratios:
    return {name: sum((ratios[name] for ratios in measured), Ratio()) for name in measured[0]}


def _summed_over_processes(trainer: Trainer, ratios: Ratios) -> Ratios:
    pairs = [(ratio.total, ratio.count) for ratio in ratios.values()]
    local = torch.tensor(pairs, dtype=torch.float32, device=trainer.strategy.root_device)
    summed = trainer.strategy.reduce(local, reduce_op="sum").tolist()
    return {name: Ratio(total, count) for name, (total, count) in zip(ratios, summed, strict=True)}
