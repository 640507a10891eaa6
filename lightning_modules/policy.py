"""What stages 1 and 3 and every evaluation share: a policy that explains clips, judged by the method's metrics."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torchmetrics import SumMetric
from transformers import get_scheduler

from datamodules.batch import ClipBatch
from datamodules.emotions import get_taxonomy
from lightning_modules.backbones.feature_cache import FeatureCache
from lightning_modules.backbones.interface import Backbone, Completions, Percept, Sampling, eval_mode
from lightning_modules.emotion_verifier import EmotionVerifier, SentenceReading
from lightning_modules.metrics.judges import Judge, VerifierJudge, verifier_verdict
from lightning_modules.metrics.report import EmotionReport
from lightning_modules.rationale import Response, read_response

EVALUATION_SAMPLING = Sampling(max_new_tokens=512, temperature=0.3, top_p=0.9)
"""How the paper's released code decodes in evaluation."""


@dataclass
class Evaluation:
    """One evaluated batch: what the policy said of each clip, and what was read in it.

    Args:
        batch: the clips.
        responses: one per clip; empty text for a clip that could not be decoded.
        readings: the verifier's reading of each response's sentences, or None without a verifier.
        verdicts: the judge's emotion of each rationale (None: invalid), or None without a judge.
    """

    batch: ClipBatch
    responses: list[Response]
    readings: list[list[SentenceReading]] | None
    verdicts: list[str | None] | None


def num_silent(batch: ClipBatch) -> int:
    """Decoded clips of a batch that have no audio track."""
    heard = zip(batch.has_audio.tolist(), batch.failures, strict=True)
    return sum(not has_audio and failure is None for has_audio, failure in heard)


class PolicyModule(LightningModule):
    """A policy that watches clips and answers with a rationale and an emotion; evaluates and predicts, does not train.

    Args:
        backbone: the multimodal LLM.
        taxonomy: the emotion classes that answers and targets come from; MAFW's are all that there are.
        verifier: Hugging Face directory or hub id of the Emotional Rationale Verifier, kept frozen and in float32.
        judge: names one emotion per rationale for EEA, EPC and FCR; by default the verifier restricted to the taxonomy.
        evaluation: how completions are drawn in validation, test and predict.
        bare_answers: take the whole completion as the answer, for baselines trained without tags.
        feature_cache: keeps what the towers return of each clip on disk; not with a strategy that shards them.

    Raises:
        ValueError: unknown taxonomy, or a verifier without the labels that the taxonomy needs.
    """

    def __init__(
        self,
        backbone: Backbone,
        taxonomy: Literal["mafw", "dfew"] = "mafw",
        verifier: str | None = None,
        judge: Judge | None = None,
        evaluation: Sampling = EVALUATION_SAMPLING,
        bare_answers: bool = False,
        feature_cache: FeatureCache | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        backbone.set_trainable([])  # a subclass says what is trained
        self.feature_cache = feature_cache
        self.taxonomy = get_taxonomy(taxonomy)
        self.verifier = None if verifier is None else EmotionVerifier(verifier)
        if self.verifier is not None:
            self.verifier.require(self.taxonomy)
        self.judge = judge
        self.evaluation = evaluation
        self.bare_answers = bare_answers
        self.validation_report = EmotionReport(self.taxonomy, self.judge_name)
        self.test_report = EmotionReport(self.taxonomy, self.judge_name)
        self.silent_clips = SumMetric()
        self.undecodable_clips = SumMetric()

    @property
    def judge_name(self) -> str | None:
        """Who judges the rationales: the judge given, else the verifier, else nobody."""
        if self.judge is not None:
            return self.judge.name
        return None if self.verifier is None else VerifierJudge(self.verifier).name

    def setup(self, stage: str) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        corpus = getattr(datamodule, "taxonomy", None)
        if corpus is not None and corpus != self.taxonomy:
            raise ValueError(
                f"The model's taxonomy is {self.taxonomy.name} and the data's is {corpus.name}. "
                "Set model.taxonomy to the data's."
            )
        if self.feature_cache is not None:
            self.feature_cache.check(self.backbone)
            strategy = self.trainer.strategy
            if isinstance(strategy, FSDPStrategy | ModelParallelStrategy) or getattr(strategy, "zero_stage_3", False):
                raise ValueError(
                    f"{type(strategy).__name__} leaves each process a part of the towers' weights, by which the "
                    "feature cache knows its entries. Set model.feature_cache to null, or trainer.strategy to ddp."
                )

    def perceive(self, batch: ClipBatch) -> Percept:
        """Tower outputs of each clip; the towers do not run for clips in the feature cache."""
        if self.feature_cache is None:
            return self.backbone.perceive(batch)
        return self.feature_cache.perceive(self.backbone, batch)

    def read(self, texts: list[str]) -> list[Response]:
        """Completions as responses of this module's taxonomy."""
        return [read_response(text, self.taxonomy, self.bare_answers) for text in texts]

    def read_sentences(self, responses: list[Response]) -> list[list[SentenceReading]]:
        """The verifier's reading of each response's sentences: all sentences in one pass, repeated ones once.

        Raises:
            ValueError: the module hosts no verifier.
        """
        if self.verifier is None:
            raise ValueError("No verifier to read sentences with: set model.verifier to a directory or hub id.")
        return self.verifier.read_groups([response.sentences for response in responses])

    @torch.no_grad()
    def evaluate(self, batch: ClipBatch) -> Evaluation:
        """Explain each clip of a batch once, without dropout."""
        with eval_mode(self.backbone):
            prompt = self.backbone.encode(batch, self.perceive(batch))
            completions = self.backbone.generate(prompt, 1, self.evaluation)
        texts = self.backbone.texts(completions)
        responses = self.read(["" if f else t for t, f in zip(texts, batch.failures, strict=True)])
        readings = None if self.verifier is None else self.read_sentences(responses)
        verdicts = None
        if self.judge is not None:
            verdicts = self.judge.judge([response.rationale for response in responses], self.taxonomy)
        elif readings is not None:
            # The default judge reads the same sentences with the same verifier: they are read already.
            verdicts = [verifier_verdict(reading, self.taxonomy) for reading in readings]
        return Evaluation(batch, responses, readings, verdicts)

    def _update(self, report: EmotionReport, evaluation: Evaluation) -> None:
        predictions = [response.prediction for response in evaluation.responses]
        report.update_clips(predictions, evaluation.batch.targets, evaluation.verdicts)

    def on_validation_epoch_start(self) -> None:
        self.validation_report.reset()

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Evaluation:
        evaluation = self.evaluate(batch)
        self._update(self.validation_report, evaluation)
        return evaluation

    def on_validation_epoch_end(self) -> None:
        self._log_report(self.validation_report, "val")

    def on_test_epoch_start(self) -> None:
        # Not at the end: `metrics_report` is read after the test.
        for metric in (self.test_report, self.silent_clips, self.undecodable_clips):
            metric.reset()

    def test_step(self, batch: ClipBatch, batch_idx: int) -> Evaluation:
        evaluation = self.evaluate(batch)
        self._update(self.test_report, evaluation)
        self.silent_clips.update(float(num_silent(batch)))
        self.undecodable_clips.update(float(sum(failure is not None for failure in batch.failures)))
        return evaluation

    def on_test_epoch_end(self) -> None:
        self._log_report(self.test_report, "test")

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> Evaluation:
        return self.evaluate(batch)

    def _log_report(self, report: EmotionReport, prefix: str) -> None:
        metrics = report.compute()
        for name in ("war", "uar", "eea", "epc", "fcr"):
            if metrics[name] is not None:
                self.log(f"{prefix}/{name}", metrics[name], prog_bar=name in ("war", "fcr"))
        self.log(f"{prefix}/unknown_answers", float(metrics["unknown_answers"]))

    def metrics_report(self) -> dict[str, Any]:
        """Metrics of the last test run, as written to `metrics.json`.

        Beside those of `score`: how many clips had no audio track (the model heard silence) or could not be decoded (a
        wrong answer).
        """
        return {
            **self.test_report.compute(),
            "clips_without_audio": int(self.silent_clips.compute()),
            "undecodable_clips": int(self.undecodable_clips.compute()),
        }

    def export(self, directory: Path) -> None:
        """Write the policy as a Hugging Face directory that loads as a backbone again."""
        self.backbone.save(directory)


class TrainablePolicyModule(PolicyModule):
    """A policy with an optimizer: AdamW on the trained parts, warm-up, then a schedule.

    A subclass names its `stage`, by which the backbone's `recipes` are looked up.

    Args:
        backbone: the multimodal LLM.
        taxonomy: the emotion classes that answers and targets come from.
        trainable: names of the backbone's parts to train; all others stay frozen to the bit. None: those of the
            backbone's recipe for this stage.
        verifier: Hugging Face directory or hub id of the verifier.
        judge: names one emotion per rationale for EEA, EPC and FCR; by default the verifier.
        evaluation: how completions are drawn in validation and test.
        learning_rate: peak learning rate; None: that of the backbone's recipe for this stage.
        weight_decay: AdamW's decoupled weight decay.
        warmup_ratio: share of the optimizer steps in which the learning rate rises linearly from 0.
        schedule: what follows the warm-up.
        feature_cache: keeps what the towers return of each clip on disk; only where all towers are frozen.

    Raises:
        ValueError: a part that the backbone does not have, or neither a value nor a recipe for `trainable` or
            `learning_rate`.
    """

    stage: ClassVar[str]

    def __init__(
        self,
        backbone: Backbone,
        taxonomy: Literal["mafw", "dfew"],
        trainable: list[str] | None,
        verifier: str | None,
        judge: Judge | None,
        evaluation: Sampling,
        learning_rate: float | None,
        weight_decay: float,
        warmup_ratio: float,
        schedule: Literal["constant", "linear", "cosine"],
        feature_cache: FeatureCache | None = None,
    ) -> None:
        super().__init__(
            backbone,
            taxonomy,
            verifier=verifier,
            judge=judge,
            evaluation=evaluation,
            feature_cache=feature_cache,
        )
        self.trainable = self._from_recipe("trainable", trainable)
        self.learning_rate = self._from_recipe("learning_rate", learning_rate)
        backbone.set_trainable(self.trainable)
        self.weight_decay = weight_decay
        self.warmup_ratio = warmup_ratio
        self.schedule = schedule
        self.num_skipped_clips = 0
        self.num_silent_clips = 0
        self._gradients_are_checked = False

    def _from_recipe(self, name: str, value: Any) -> Any:
        """The value given for a field of `Recipe`, else that of the backbone's recipe for this stage."""
        recipes = self.backbone.recipes or {}
        recipe = recipes.get(self.stage)
        if value is None and recipe is None:
            raise ValueError(
                f"Got no model.{name}, and {type(self.backbone).__name__} has no recipe for the stage {self.stage!r} "
                f"(its recipes: {', '.join(recipes) or 'none'}). Set model.init_args.{name}, or "
                f"model.init_args.backbone.init_args.recipes.{self.stage} to trainable parts and a learning rate, as "
                "configs/backbone/*.yaml do."
            )
        return getattr(recipe, name) if value is None else value

    def num_optimizer_steps(self) -> int:
        """Optimizer steps of the whole run, for the schedule."""
        return int(self.trainer.estimated_stepping_batches)

    def configure_optimizers(self) -> dict[str, Any]:
        parameters = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        num_steps = self.num_optimizer_steps()
        scheduler = get_scheduler(
            "constant_with_warmup" if self.schedule == "constant" else self.schedule,
            optimizer,
            num_warmup_steps=round(self.warmup_ratio * num_steps),
            num_training_steps=num_steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained; frozen parts come from their own directories."""
        trained = self._trained_keys()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the frozen parts as they are, after checking that no trained one is missing."""
        missing = sorted(self._trained_keys() - set(checkpoint["state_dict"]))
        if missing:
            raise ValueError(
                f"The checkpoint lacks {len(missing)} trained tensors, e.g. {missing[0]}. It was written with other "
                f"trainable parts than {self.trainable}: set model.trainable to those of the run that wrote it."
            )
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}

    def _trained_keys(self) -> set[str]:
        return {
            f"backbone.{name}"
            for name, parameter in self.backbone.named_parameters(remove_duplicate=False)
            if parameter.requires_grad
        }

    def check_gradients(self) -> None:
        """Refuse trained parts that the loss does not reach. Looks once, after the first backward pass.

        A part counts as reached when any of its parameters is: HumanOmni, for one, takes its vision tower's features
        before the last layer, which then gets no gradient.

        Raises:
            ValueError: naming the parts of which no parameter got a gradient.
        """
        if self._gradients_are_checked:
            return
        self._gradients_are_checked = True
        # Strategies that shard keep nothing here of a part that another device holds.
        trained = {
            name: [p for p in part.parameters() if p.requires_grad and p.numel()]
            for name, part in self.backbone.parts.items()
        }
        unreached = [name for name, own in trained.items() if own and all(p.grad is None for p in own)]
        # DeepSpeed takes the gradients away as they come: where there is none at all, nothing can be said.
        if unreached and len(unreached) < sum(map(bool, trained.values())):
            raise ValueError(
                f"No gradient reaches {', '.join(unreached)}, of the trainable parts {', '.join(self.trainable)}: "
                f"training would leave {'it' if len(unreached) == 1 else 'them'} as before. Leave "
                f"{', '.join(unreached)} out of model.trainable (in stage 3 the towers run once per clip, without "
                "gradient)."
            )

    def check_finite(self, loss: torch.Tensor, batch: ClipBatch) -> None:
        """Stop before a non-finite loss reaches the weights.

        Raises:
            ValueError: naming the clips of the batch.
        """
        if not torch.isfinite(loss):
            raise ValueError(
                f"Loss is {loss.item()} at step {self.global_step}, on clips {', '.join(batch.ids)}. The weights were "
                "not updated. Lower model.learning_rate, clip gradients, or inspect these clips."
            )

    def count_clips(self, batch: ClipBatch) -> None:
        """Log how many clips so far could not be decoded or had no audio track, and name those that are left out."""
        self.num_skipped_clips += len(batch.skipped)
        self.num_silent_clips += num_silent(batch)
        counts = {"skipped_clips": self.num_skipped_clips, "silent_clips": self.num_silent_clips}
        for name, count in counts.items():
            self.log(f"train/{name}", float(count), batch_size=max(len(batch), 1))
        for reason in batch.skipped:
            self.print(f"Skipped a clip that cannot be decoded: {reason}")

    def completion_length(self, completions: Completions) -> torch.Tensor:
        """Mean completion length in tokens."""
        return completions.lengths.float().mean()
