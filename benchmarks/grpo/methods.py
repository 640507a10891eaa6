"""A GRPO step three ways, on the same modules: as this project does it, naively, and as published.

Shape legend: B prompts, G completions per prompt, P prompt positions, C completion tokens, V vocabulary.
"""

import copy
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from benchmarks.grpo.geometries import Geometry
from benchmarks.grpo.meter import Meter
from datamodules.batch import ClipBatch
from lightning_modules.backbones.cpu_linear import OneDNNLinear
from lightning_modules.backbones.decoder_backbone import DecoderBackbone
from lightning_modules.backbones.interface import Completions, Prompt, Sampling, SharedPrompt
from lightning_modules.backbones.percept import Percept
from lightning_modules.rl.advantages import group_advantages
from lightning_modules.rl.experience import group_rows
from lightning_modules.rl.losses import grpo_loss
from lightning_modules.rl.rows import spans, take

LEARNING_RATE = 1e-6
GRADIENT_NORM = 1.0

_DRIFT = 0.2
"""How far the policy is from the reference, in standard deviations of each weight tensor: the KL is not 0 then."""


@dataclass
class Evaluation:
    """What a method computes for given completions, to compare the methods by.

    Args:
        logprobs: of the policy, float32 `[B·G, C]`.
        reference_logprobs: of the reference, float32 `[B·G, C]`.
        loss: the GRPO loss.
        gradients: of every trained parameter, by name; None where the method's parameters have other names.
    """

    logprobs: Tensor
    reference_logprobs: Tensor
    loss: float
    gradients: dict[str, Tensor] | None


class Method(ABC):
    """One way to do a GRPO step. `description` says which, in a line."""

    name: ClassVar[str]
    description: ClassVar[str]

    @abstractmethod
    def evaluate(self, completions: Completions, advantages: Tensor) -> Evaluation:
        """The step's figures for given completions and advantages `[B·G]`; the weights stay."""


def rewards_of_step(geometry: Geometry, seed: int, device: torch.device | str) -> Tensor:
    """Random rewards `[B·G]`: the verifier is measured elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(geometry.num_prompts * geometry.group_size, generator=generator).to(device)


@torch.no_grad()
def drift(model: nn.Module, seed: int) -> None:
    """Move the trained weights a little, the same way for the same seed, as earlier steps would have."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            parameter += (_DRIFT * parameter.float().std(correction=0) * noise).to(parameter.dtype)


class Shared(Method):
    """This project's step: the calls that `GRPOModule` and its RL callback make, without Trainer and verifier.

    Args:
        backbone: becomes the policy; its trained parts are set.
        batch: the clips, on the device of the backbone.
        geometry: the workload.
        seed: of the policy's distance from the reference.
    """

    name = "shared"
    description = "this project: towers once per clip, prompt once per group, reference shares what is not trained"

    def __init__(self, backbone: DecoderBackbone, batch: ClipBatch, geometry: Geometry, seed: int) -> None:
        self.policy, self.batch, self.geometry = backbone, batch, geometry
        self.sampling = Sampling(max_new_tokens=geometry.new_tokens, compiled=geometry.compiled)
        if geometry.liger:
            self.policy.use_liger_kernel()
        self.reference = self._make_reference()
        drift(self.policy, seed)
        self.parameters = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def step(self, meter: Meter, seed: int) -> None:
        """Sample, score with the reference, update."""
        torch.manual_seed(seed)
        with meter.step():
            with meter.phase("sample"), torch.no_grad():
                percept = self.policy.perceive(self.batch)
                completions = self._sample(percept)
                self.policy.texts(completions)
            rewards = rewards_of_step(self.geometry, seed, completions.token_ids.device)
            advantages = group_advantages(rewards, self.geometry.group_size)
            with meter.phase("reference"):
                reference_logprobs = self._reference_logprobs(percept, completions)
            with meter.phase("update"):
                self.optimizer.zero_grad()
                self._backward(percept, completions, reference_logprobs, advantages)
                nn.utils.clip_grad_norm_(self.parameters, GRADIENT_NORM)
                self.optimizer.step()

    def sample(self) -> Completions:
        """Completions of the policy as it is."""
        with torch.no_grad():
            return self._sample(self.policy.perceive(self.batch))

    def evaluate(self, completions: Completions, advantages: Tensor) -> Evaluation:
        with torch.no_grad():
            percept = self.policy.perceive(self.batch)
        reference_logprobs = self._reference_logprobs(percept, completions)
        self.optimizer.zero_grad()
        loss, logprobs = self._backward(percept, completions, reference_logprobs, advantages)
        named = self.policy.named_parameters()
        gradients = {name: p.grad for name, p in named if p.grad is not None}
        self.optimizer.zero_grad()
        return Evaluation(logprobs, reference_logprobs, loss, gradients)

    def _make_reference(self) -> DecoderBackbone:
        return self.policy.reference()

    @property
    def _micro_batch(self) -> int | None:
        return self.geometry.micro_batch

    @property
    def _completion_batch(self) -> int | None:
        return self.geometry.completion_batch

    def _sample(self, percept: Percept) -> Completions:
        prompt = self.policy.encode(self.batch, percept)
        return self.policy.generate(prompt, self.geometry.group_size, self.sampling)

    def _logprobs(
        self, model: DecoderBackbone, percept: Percept, completions: Completions, *, start: int, stop: int
    ) -> Tensor:
        """Log-probabilities `[(stop - start)·G, C]` of the completions of prompts `start` to `stop`."""
        prompt = model.encode(self.batch.rows(start, stop), percept.rows(start, stop))
        # Training logs the policy's entropy.
        return model.score(prompt, completions, with_entropy=model is self.policy).logprobs

    @torch.no_grad()
    def _reference_logprobs(self, percept: Percept, completions: Completions) -> Tensor:
        group_size = self.geometry.group_size
        return torch.cat(
            [
                self._logprobs(
                    self.reference,
                    percept,
                    completions.rows(start * group_size, stop * group_size),
                    start=start,
                    stop=stop,
                )
                for start, stop in spans(len(self.batch), self._micro_batch)
            ]
        )

    def _backward(
        self, percept: Percept, completions: Completions, reference_logprobs: Tensor, advantages: Tensor
    ) -> tuple[float, Tensor]:
        """Add the gradient of the loss; return the loss and the policy's log-probabilities `[B·G, C]`."""
        group_size, size = self.geometry.group_size, self._completion_batch
        loss, all_logprobs = 0.0, torch.zeros_like(reference_logprobs)
        for start, stop in spans(len(self.batch), self._micro_batch):
            with ExitStack() as stack:
                score, shared = partial(self._logprobs, self.policy, percept, start=start, stop=stop), None
                if size is not None:
                    prompt = self.policy.encode(self.batch.rows(start, stop), percept.rows(start, stop))
                    shared = stack.enter_context(self.policy.score_in_parts(prompt))
                    score = partial(_scored, shared)
                for members in spans(group_size, size):
                    rows = group_rows(range(start, stop), group_size, members)
                    part = take(completions, rows)
                    logprobs = score(part)
                    result = grpo_loss(
                        logprobs,
                        None,
                        advantages[rows],
                        part.mask,
                        reference_logprobs=reference_logprobs[rows],
                        beta=self.geometry.beta,
                        num_completions_total=len(completions),
                    )
                    result.loss.backward()
                    loss += result.loss.item()
                    all_logprobs[rows] = logprobs.detach()
                if shared is not None:
                    shared.backward()
        return loss, all_logprobs


def _scored(shared: SharedPrompt, completions: Completions) -> Tensor:
    return shared.score(completions, 1.0, True).logprobs


class PlainLinear(Shared):
    """The same step, with linear layers as PyTorch computes them."""

    name = "plain"
    description = "shared, its linear layers by PyTorch's own choice of library"

    def __init__(self, backbone: DecoderBackbone, batch: ClipBatch, geometry: Geometry, seed: int) -> None:
        for module in backbone.modules():
            if type(module) is OneDNNLinear:
                module.__class__ = nn.Linear
        super().__init__(backbone, batch, geometry, seed)


class Naive(Shared):
    """Prompt + completion row by row; every row computes its prompt, and logits stand at every position."""

    name = "naive"
    description = "the same modules: prompt + completion per row, log-softmax of all positions, generate() of G rows"

    @property
    def _micro_batch(self) -> int | None:
        return self.geometry.baseline_micro_batch

    @property
    def _completion_batch(self) -> int | None:
        return None

    def _repeated(self, model: DecoderBackbone, percept: Percept, start: int, stop: int) -> Prompt:
        """Prompts `start` to `stop`, each G times."""
        prompt = model.encode(self.batch.rows(start, stop), percept.rows(start, stop))
        embeddings, mask, positions = (
            tensor.repeat_interleave(self.geometry.group_size, dim=0)
            for tensor in (prompt.embeddings, prompt.attention_mask, prompt.position_ids)
        )
        return Prompt(embeddings, mask, positions)

    def _scored_prompts(self, model: DecoderBackbone, percept: Percept, start: int, stop: int) -> Prompt:
        return self._repeated(model, percept, start, stop)

    def _sample(self, percept: Percept) -> Completions:
        prompt = self._repeated(self.policy, percept, 0, len(self.batch))
        token_ids = self.policy.language_model.generate(
            inputs_embeds=prompt.embeddings,
            attention_mask=prompt.attention_mask,
            max_new_tokens=self.sampling.max_new_tokens,
            min_new_tokens=self.sampling.max_new_tokens,
            do_sample=True,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            top_k=self.sampling.top_k,
            pad_token_id=self.policy.tokenizer.pad_token_id,
            eos_token_id=self.policy.tokenizer.eos_token_id,
            disable_compile=True,
        )
        mask = torch.ones_like(token_ids, dtype=torch.bool)
        return Completions(token_ids, mask, torch.zeros(token_ids.shape, device=token_ids.device), ~mask[:, 0])

    def _logprobs(
        self, model: DecoderBackbone, percept: Percept, completions: Completions, *, start: int, stop: int
    ) -> Tensor:
        prompt = self._scored_prompts(model, percept, start, stop)
        tokens = model.language_model.get_input_embeddings()(completions.token_ids)
        length, width = prompt.attention_mask.shape[1], completions.token_ids.shape[1]
        steps = torch.arange(1, width + 1, device=tokens.device)
        logits = model.language_model(
            inputs_embeds=torch.cat([prompt.embeddings, tokens], dim=1),
            attention_mask=torch.cat([prompt.attention_mask, completions.mask.long()], dim=1),
            position_ids=torch.cat([prompt.position_ids, prompt.position_ids[:, -1:] + steps], dim=1),
            use_cache=False,
        ).logits
        log_p = logits.float().log_softmax(dim=-1)[:, length - 1 : -1]
        chosen = log_p.gather(2, completions.token_ids[..., None])[..., 0]
        return chosen.masked_fill(~completions.mask, 0.0)


class Published(Naive):
    """The released code's procedure, from this project's modules."""

    name = "published"
    description = "naive, and towers 1 + 2G times per clip, and a reference that is a full copy"

    def _make_reference(self) -> DecoderBackbone:
        return copy.deepcopy(self.policy).requires_grad_(False).eval()

    def _scored_prompts(self, model: DecoderBackbone, percept: Percept, start: int, stop: int) -> Prompt:
        rows = [clip for clip in range(start, stop) for _ in range(self.geometry.group_size)]
        return model.encode(self.batch.take(rows))
