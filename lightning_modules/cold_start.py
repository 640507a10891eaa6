"""Stage 1: supervised cold start on explanations, `<think>rationale</think>\\n<answer>label</answer>`.

Source: arXiv 2510.23506, "three stages"; hyperparameters are those of the paper's released code.
"""

from typing import Literal

import torch
from torch import Tensor

from datamodules.batch import ClipBatch
from lightning_modules.backbones.feature_cache import FeatureCache
from lightning_modules.backbones.interface import Backbone, Sampling
from lightning_modules.metrics.judges import Judge
from lightning_modules.policy import EVALUATION_SAMPLING, TrainablePolicyModule


class ColdStartModule(TrainablePolicyModule):
    """Next-token cross-entropy on the response's tokens only, mean over the tokens of the batch.

    Args:
        backbone: the multimodal LLM.
        taxonomy: the emotion classes of the corpus.
        trainable: names of the backbone's parts to train; all others stay frozen to the bit. By default those of the
            backbone's recipe for `cold_start`.
        verifier: Hugging Face directory or hub id of a verifier, to read validation rationales with.
        judge: names one emotion per rationale in validation and test; by default the verifier, if one is given.
        evaluation: how completions are drawn in validation and test.
        learning_rate: peak learning rate; by default that of the backbone's recipe for `cold_start`.
        weight_decay: AdamW's decoupled weight decay.
        warmup_ratio: share of the steps with rising learning rate.
        schedule: what follows the warm-up.
        feature_cache: keeps what the towers return of each clip on disk; only where all towers are frozen.

    Raises:
        ValueError: see `TrainablePolicyModule`.
    """

    stage = "cold_start"

    def __init__(
        self,
        backbone: Backbone,
        taxonomy: Literal["mafw", "dfew"],
        trainable: list[str] | None = None,
        verifier: str | None = None,
        judge: Judge | None = None,
        evaluation: Sampling = EVALUATION_SAMPLING,
        learning_rate: float | None = None,
        weight_decay: float = 0.0,
        warmup_ratio: float = 0.03,
        schedule: Literal["constant", "linear", "cosine"] = "cosine",
        feature_cache: FeatureCache | None = None,
    ) -> None:
        super().__init__(
            backbone,
            taxonomy,
            trainable,
            verifier,
            judge,
            evaluation,
            learning_rate,
            weight_decay,
            warmup_ratio,
            schedule,
            feature_cache,
        )

    def on_train_start(self) -> None:
        # Loading leaves modules in eval mode; only what is trained gets its dropout back.
        for name, part in self.backbone.parts.items():
            part.train(not self.backbone.is_frozen(name))

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor | None:
        self.count_clips(batch)
        if not len(batch):
            return None
        missing = [i for i, response in zip(batch.ids, batch.responses, strict=True) if response is None]
        if missing:
            raise ValueError(
                f"Clips {', '.join(missing)} have no response to learn. Cold start needs a corpus with explanations "
                "(e.g. EMER), not one with labels only."
            )
        completions = self.backbone.completion_ids([response for response in batch.responses if response is not None])
        prompt = self.backbone.encode(batch, self.perceive(batch))
        logprobs = self.backbone.logprobs(prompt, completions)
        loss = -logprobs.sum() / completions.mask.sum()
        self.check_finite(loss.detach(), batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        self.log("train/response_tokens", self.completion_length(completions), batch_size=len(batch))
        return loss

    def on_after_backward(self) -> None:
        self.check_gradients()
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.log("train/gradient_norm", torch.nn.utils.get_total_norm(gradients))
