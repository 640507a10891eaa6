"""Stage 2: train the Emotional Rationale Verifier, a multi-label classifier of sentences.

The paper's is RoBERTa, from GoEmotions' weights; docs/paper_index.md has its settings, and which of them are ours.

Shape legend: B sentences, 28 GoEmotions labels.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.plugins.precision import HalfPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from datamodules.emotions import GO_EMOTIONS
from datamodules.rationale_text import SentenceBatch
from lightning_modules.emotion_verifier import load_classifier, usable_tokens
from lightning_modules.health import NonFiniteError
from lightning_modules.metrics.sentences import SentenceLabelReport
from lightning_modules.optimizer import adamw, scheduled
from lightning_modules.step_seed import SeededSteps

logger = logging.getLogger(__name__)


def load_trainable_classifier(path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, bool]:
    """A classifier with GoEmotions' 28 labels on top of any encoder, in float32.

    A checkpoint whose labels are GoEmotions' in their order keeps its head; any other gets a new, random head.

    Args:
        path: Hugging Face directory or hub id of an encoder or sequence classifier.

    Returns:
        The model, its tokenizer, and whether the head is new.

    Raises:
        ValueError: the path cannot be loaded.
    """
    names = dict(enumerate(GO_EMOTIONS))
    model, tokenizer, report = load_classifier(
        path,
        num_labels=len(names),
        id2label=names,
        label2id={label: i for i, label in names.items()},
        problem_type="multi_label_classification",
        ignore_mismatched_sizes=True,
    )
    before = AutoConfig.from_pretrained(path, trust_remote_code=False)
    had = tuple(label for _, label in sorted(before.id2label.items()))
    if had == GO_EMOTIONS and not report["missing_keys"] and not report["mismatched_keys"]:
        logger.info("%s: the classification head of the checkpoint is kept.", path)
        return model, tokenizer, False
    logger.warning("%s: no head for GoEmotions' 28 labels in their order; a new, random head is trained.", path)
    # Loading keeps a head of equal size under the new names, so the head is taken from a model that was never loaded.
    fresh = AutoModelForSequenceClassification.from_config(model.config, trust_remote_code=False).float()
    for name, head in fresh.named_children():
        if name != model.base_model_prefix:
            model.set_submodule(name, head)
    return model, tokenizer, True


RATES = ("macro_f1", "micro_f1", "top_label_accuracy", "exact_match")
"""What an evaluation logs of `SentenceLabelReport.compute`, under its own name."""


class VerifierModule(SeededSteps):
    """Trains the verifier with binary cross-entropy on sentences with several emotions each.

    Args:
        path: Hugging Face directory or hub id to start from: any encoder or sequence classifier.
        learning_rate: peak learning rate of AdamW.
        weight_decay: decoupled weight decay of the matrices; biases and normalisations have none.
        warmup_ratio: share of the steps over which the learning rate rises from 0, before it falls linearly to 0.
        max_tokens: longest sentence, in tokens; the rest is cut off.

    Raises:
        ValueError: the path cannot be loaded, or a number is out of range.
    """

    def __init__(
        self,
        path: str,
        learning_rate: float = 3e-5,
        weight_decay: float = 0.01,
        warmup_ratio: float = 0.1,
        max_tokens: int = 512,
    ) -> None:
        super().__init__()
        if learning_rate <= 0 or weight_decay < 0 or not 0 <= warmup_ratio <= 1 or max_tokens < 1:
            raise ValueError(
                "Expected learning_rate > 0, weight_decay >= 0, 0 <= warmup_ratio <= 1 and max_tokens >= 1; got "
                f"{learning_rate}, {weight_decay}, {warmup_ratio}, {max_tokens}."
            )
        self.save_hyperparameters()
        self.path = path
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_ratio = warmup_ratio
        self.model, self.tokenizer, self._is_untrained = load_trainable_classifier(path)
        self.model.train()  # from_pretrained leaves it in eval mode, in which it would train without dropout
        self.max_tokens = usable_tokens(self.model, self.tokenizer, max_tokens)
        self.val_report = SentenceLabelReport(GO_EMOTIONS)
        self.test_report = SentenceLabelReport(GO_EMOTIONS)
        self._tested: dict[str, Any] | None = None

    def forward(self, texts: list[str]) -> Tensor:
        """Logits of sentences, float32 `[B, 28]`."""
        options = {"truncation": True, "max_length": self.max_tokens, "split_special_tokens": True}
        inputs = self.tokenizer(texts, padding=True, return_tensors="pt", **options)
        return self.model(**inputs.to(self.device)).logits.float()

    def setup(self, stage: str) -> None:
        """Refuse to be sharded, or to be trained in 16 bits.

        Raises:
            ValueError: the strategy shards, or the precision would keep weights in which steps are lost.
        """
        strategy = self.trainer.strategy
        if isinstance(strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
            raise ValueError(
                f"{type(strategy).__name__} shards the model; stage 2 trains a small classifier on one device or in "
                "several whole copies. Use configs/trainer/ddp.yaml, gpu.yaml or cpu.yaml."
            )
        if isinstance(self.trainer.precision_plugin, HalfPrecision):
            raise ValueError(
                f"trainer.precision {self.trainer.precision} keeps the classifier in 16 bits, where most steps of a "
                f"learning rate of {self.learning_rate:g} are lost. Set it to 32-true or bf16-mixed."
            )

    def on_train_batch_start(self, batch: SentenceBatch, batch_idx: int) -> None:
        """Dropout is a function of the place in the run."""
        self.seed_step(batch_idx)

    def on_fit_start(self) -> None:
        """The head, if it was new, is trained from here on."""
        super().on_fit_start()
        self._is_untrained = False

    def on_train_start(self) -> None:
        """Have the schedule start from the rate that a finder has found, which sets that of the first step only."""
        if any(isinstance(callback, LearningRateFinder) for callback in self.trainer.callbacks):
            for own in self.trainer.lr_scheduler_configs:
                state = own.scheduler.state_dict()
                own.scheduler.load_state_dict({**state, "base_lrs": [self.learning_rate for _ in state["base_lrs"]]})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The head, if it was new, is that of the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        self._is_untrained = False

    def on_test_start(self) -> None:
        """Refuse to measure a head that nobody trained.

        Raises:
            ValueError: the head is new.
        """
        if self._is_untrained:
            raise ValueError(
                f"{self.path} has no head for GoEmotions' 28 labels in their order: there is nothing to test. Name a "
                "directory that stage 2 left, or give --ckpt_path."
            )

    def training_step(self, batch: SentenceBatch, batch_idx: int) -> Tensor:
        """Binary cross-entropy, mean over sentences and labels."""
        loss = functional.binary_cross_entropy_with_logits(self(batch.texts), batch.labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.texts))
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Stop before a gradient that is not finite reaches the weights; a gradient scaler sees to its own.

        Raises:
            NonFiniteError: it is not.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            return
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            raise NonFiniteError(
                f"The gradient's norm is {norm:g} at step {self.trainer.global_step}, in epoch {self.current_epoch}; "
                f"the weights were not updated. Lower model.learning_rate (now {self.learning_rate:g}), and go on "
                "from a checkpoint before it, or begin anew."
            )

    def validation_step(self, batch: SentenceBatch, batch_idx: int) -> None:
        """Loss and counts of held-out sentences."""
        self._evaluate(batch, "val", self.val_report)

    def test_step(self, batch: SentenceBatch, batch_idx: int) -> None:
        """As `validation_step`."""
        self._evaluate(batch, "test", self.test_report)

    def _evaluate(self, batch: SentenceBatch, stage: str, report: SentenceLabelReport) -> None:
        logits = self(batch.texts)
        loss = functional.binary_cross_entropy_with_logits(logits, batch.labels)
        self.log(f"{stage}/loss", loss, on_epoch=True, sync_dist=True, batch_size=len(batch.texts))
        report.update(logits.sigmoid(), batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Log the report and start the next one."""
        self._log_report("val", self.val_report)

    def on_test_epoch_end(self) -> None:
        """Log the report and keep it for `metrics_report`."""
        self._tested = self._log_report("test", self.test_report)
        best = max(self._tested["threshold_sweep"], key=lambda own: own["macro_f1"] or 0.0)
        self.print(
            f"Macro F1 is {self._tested['macro_f1']:.3f} at the reward's threshold of {self._tested['threshold']:g}; "
            f"the highest is {best['macro_f1']:.3f}, at {best['threshold']:g}."
        )

    def _log_report(self, stage: str, report: SentenceLabelReport) -> dict[str, Any]:
        values = report.compute()
        report.reset()
        rates = {name: values[name] for name in RATES}
        rates |= {"calibration_error": values["calibration"]["error"]}
        rates |= {f"f1/{label}": own["f1"] for label, own in values["per_label"].items()}
        # The counts are already summed over processes: every process logs the same numbers.
        logged = {f"{stage}/{name}": value for name, value in rates.items() if value is not None}
        self.log_dict(logged, sync_dist=True)
        return values

    def metrics_report(self) -> dict[str, Any]:
        """What `metrics.json` holds after a test: see `SentenceLabelReport.compute`.

        Raises:
            ValueError: no test has run.
        """
        if self._tested is None:
            raise ValueError("There is no report before a test. Run `test` first.")
        return self._tested

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; the learning rate rises and falls linearly, step by step."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = adamw(groups, self.trainer, lr=self.learning_rate)
        return scheduled(optimizer, "linear", self.warmup_ratio, self.trainer.estimated_stepping_batches)

    def export(self, directory: str | Path) -> None:
        """Write the Hugging Face directory that `EmotionVerifier` loads: model (safetensors) and tokenizer."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
