"""Stage 1: supervised cold start on explanations, `<think>rationale</think>\\n<answer>label</answer>`.

Source: arXiv 2510.23506, "three stages"; hyperparameters are those of the paper's released code.
"""

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor
from torch.optim import Optimizer

from datamodules.batch import ClipBatch
from datamodules.rationale import is_well_formed
from lightning_modules.backbones.interface import Backbone
from lightning_modules.global_batch import GlobalBatch
from lightning_modules.optimizer import Schedule
from lightning_modules.processes import Tally, sum_over_processes
from lightning_modules.trainable_policy import TrainablePolicyModule

_NUM_NAMED = 5
"""Clips that an error names."""


class ColdStartModule(TrainablePolicyModule):
    """Next-token cross-entropy on the response's tokens only, mean over the tokens of an optimizer step.

    The mean is over all processes' tokens and all accumulated batches, however many each has.

    Args:
        backbone: the multimodal LLM.
        taxonomy: the emotion classes of the corpus.
        warmup_ratio: share of the optimizer steps in which the learning rate rises linearly from 0.
        schedule: what follows the warm-up.
        training: see `TrainablePolicyModule`.

    Raises:
        ValueError: see `TrainablePolicyModule`.
    """

    stage = "cold_start"
    published_batch = 32
    batch_unit = "clips"

    def __init__(
        self,
        backbone: Backbone,
        taxonomy: str,
        *,
        warmup_ratio: float = 0.03,
        schedule: Schedule = "cosine",
        **training: Any,
    ) -> None:
        super().__init__(backbone, taxonomy, warmup_ratio=warmup_ratio, schedule=schedule, **training)
        self._step_tokens: list[float] = []  # of each batch since the last optimizer step, on all processes

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":  # before the first step, where the rows are known
            datasets = getattr(getattr(self.trainer, "datamodule", None), "datasets", {})
            records = getattr(datasets.get("train"), "records", ())
            self._check_responses([(f"{own.source}: clip {own.id}", own.response) for own in records])
        if isinstance(self.trainer.strategy, DeepSpeedStrategy) and self.trainer.accumulate_grad_batches > 1:
            raise ValueError(
                "DeepSpeed keeps accumulated gradients to itself, where their mean over tokens cannot be taken. Set "
                "trainer.accumulate_grad_batches to 1 and raise data.batch_size (with model.global_batch: to all of a "
                "process' share)."
            )

    def accumulate(self, batch: GlobalBatch) -> None:
        given = self.trainer.accumulate_grad_batches
        if given not in (1, batch.accumulation):
            raise ValueError(
                f"trainer.accumulate_grad_batches is {given}, and model.global_batch {batch.total} makes it "
                f"{batch.accumulation}: take one of the two out."
            )
        self.trainer.accumulate_grad_batches = batch.accumulation

    def on_train_start(self) -> None:
        self._step_tokens = []
        # Loading leaves modules in eval mode; only what is trained gets its dropout back.
        for name, part in self.backbone.parts.items():
            part.train(not self.backbone.is_frozen(name))

    def on_train_epoch_start(self) -> None:
        batches, needed = self.trainer.num_training_batches, self.trainer.accumulate_grad_batches
        if self.global_batch is not None and batches < needed:
            raise ValueError(
                f"model.global_batch is {self.global_batch}, {needed} batches of each process, and an epoch has "
                f"{batches}: its steps would all be smaller. Lower model.global_batch."
            )

    def on_train_batch_start(self, batch: ClipBatch, batch_idx: int) -> None:
        self.seed_step(batch_idx)
        if self.shards is not None:
            self.shards.gather()

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor | None:
        self.count_clips(batch)
        if not len(batch) and self.trainer.world_size == 1:
            return None
        tally = Tally()
        # Other processes may have clips to learn from, and share gradients with one that has none.
        total, own_tokens = self._summed_loss(batch, tally) if len(batch) else (self.zero_loss(), 0)
        (num_tokens,) = sum_over_processes(own_tokens, device=self.device)
        self.health.see_batch(batch, batch_idx, {"num_tokens_total": int(num_tokens)})
        for name, value in tally.over_processes().items():
            self.log(f"train/{name}", value, prog_bar=name == "loss", batch_size=max(len(batch), 1))
        self._step_tokens.append(num_tokens)
        first = next((tokens for tokens in self._step_tokens if tokens), 1.0)
        # Strategies take the gradients' mean over the processes, Lightning over the batches; these are shares of a sum,
        # whose last denominator `_finish_gradients` sees to.
        return total * (self.trainer.world_size * self.trainer.accumulate_grad_batches) / first

    def _check_responses(self, clips: Sequence[tuple[str, str | None]]) -> None:
        """Refuse clips that there is nothing to learn of, or that lack sections.

        Args:
            clips: what messages call a clip, and its response.

        Raises:
            ValueError: there are some; names the first ones.
        """
        missing = [name for name, response in clips if response is None]
        if missing and len(missing) == len(clips):
            raise ValueError(
                f"Clips {_first(missing)} have no response to learn. Cold start needs a corpus with explanations "
                "(EMER, MERR, a manifest with a rationale column), not one with labels only."
            )
        if missing:
            raise ValueError(
                f"{missing[0]} has no response to learn, and so {len(missing)} of {len(clips)}. Give each clip one, or "
                "leave it out."
            )
        lacking = [name for name, own in clips if self.sections and not is_well_formed(own or "", self.sections)]
        if lacking:
            tags = "".join(f"<{name}>…</{name}>" for name in (*self.sections, "think", "answer"))
            raise ValueError(
                f"The responses to learn of clips {_first(lacking)} are not {tags}, each once and in this order, as "
                "model.sections demands. Complete them, or set model.sections to [] for this corpus."
            )

    def _summed_loss(self, batch: ClipBatch, tally: Tally) -> tuple[Tensor, int]:
        """Cross-entropy of a batch, summed over its tokens, and their number; notes what to log of it."""
        self._check_responses(list(zip(batch.ids, batch.responses, strict=True)))
        completions = self.backbone.completion_ids([response for response in batch.responses if response is not None])
        prompt = self.backbone.encode(batch, self.perceive(batch))
        total, num_tokens = -self.backbone.logprobs(prompt, completions).sum(), int(completions.mask.sum())
        self.health.see_loss(total / num_tokens, batch.ids)
        tally.add("loss", total.detach() / num_tokens, weight=num_tokens)
        tally.add("response_tokens", self.completion_length(completions), weight=len(batch))
        return total, num_tokens

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        def closure() -> Any:
            loss = None if optimizer_closure is None else optimizer_closure()
            self._finish_gradients()
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def _finish_gradients(self) -> None:
        """After the last backward pass of an optimizer step, before anything looks at the gradients."""
        counts, self._step_tokens = [tokens for tokens in self._step_tokens if tokens], []
        if len(counts) > 1:
            for parameter in self.backbone.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(counts[0] / sum(counts))
        if self.shards is not None:
            self.shards.reduce_gradients()

    def on_after_backward(self) -> None:
        self.check_gradients()
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NUM_NAMED])
    return f"{shown} and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else shown
