"""TRL's GRPOTrainer on the same text-only work, as its users run it. Needs `pip install -e '.[bench]'`."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.grpo.geometries import Geometry
from benchmarks.grpo.meter import Meter
from benchmarks.grpo.methods import GRADIENT_NORM, LEARNING_RATE, Evaluation, Method, drift, rewards_of_step
from benchmarks.grpo.models import load_word_tokenizer
from datamodules.batch import ClipBatch
from lightning_modules.backbones.interface import Completions

SETTINGS = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "loss_type": "grpo",
    "learning_rate": LEARNING_RATE,
    "lr_scheduler_type": "constant",
    "optim": "adamw_torch_fused",
    "weight_decay": 0.0,
    "max_grad_norm": GRADIENT_NORM,
    "gradient_checkpointing": False,
    "use_vllm": False,
}
"""What is set here, beside sizes, precision and the switches that keep it from writing; all else is TRL's default."""


class _MeteredTrainer(GRPOTrainer):
    """Marks the phases from outside: what follows the reference's log-probabilities is "update"."""

    meter: Meter

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.update_phase = contextlib.ExitStack()

    def _generate(self, *args, **kwargs):
        with self.meter.phase("sample"):
            return super()._generate(*args, **kwargs)

    def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
        if model is not self.ref_model:
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        with self.meter.phase("reference"):
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)

    def _generate_and_score_completions(self, inputs):
        scored = super()._generate_and_score_completions(inputs)
        self.update_phase.enter_context(self.meter.phase("update"))
        return scored


class _Rounds(TrainerCallback):
    """Lets the other methods do their step before each of TRL's, outside its clock."""

    def __init__(self, trainer: _MeteredTrainer, before_step: Callable[[int], None]) -> None:
        self._trainer, self._before_step = trainer, before_step
        self._step = contextlib.ExitStack()

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self._before_step(state.global_step)
        self._step.enter_context(self._trainer.meter.step())

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self._trainer.update_phase.close()
        self._step.close()


class TRL(Method):
    """GRPOTrainer, driven by its own `train()`.

    Args:
        directory: Hugging Face directory of the language model, which the reference is loaded from.
        batch: its instructions are the prompts.
        geometry: a "text" workload.
        device: "cpu" or "cuda".
        seed: of the policy's distance from the reference, of rewards and of sampling.
        steps: number of steps that `train` will do.
    """

    name = "trl"
    description = "TRL's GRPOTrainer without vLLM: prompt + completion per row, fused chunked head"

    def __init__(
        self, directory: Path, batch: ClipBatch, geometry: Geometry, device: str, seed: int, steps: int
    ) -> None:
        self.geometry, self.batch = geometry, batch
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, geometry.dtype))
        drift(model, seed)
        rewards = rewards_of_step(geometry, seed, "cpu").tolist()
        config = GRPOConfig(
            output_dir=str(directory / "trl"),
            per_device_train_batch_size=geometry.num_prompts * geometry.group_size,
            num_generations=geometry.group_size,
            max_completion_length=geometry.new_tokens,
            generation_kwargs={"min_new_tokens": geometry.new_tokens},
            beta=geometry.beta,
            bf16=geometry.dtype == "bfloat16",
            use_cpu=device == "cpu",
            seed=seed,
            max_steps=steps,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **SETTINGS,
        )
        self.trainer = _MeteredTrainer(
            model=model,
            reward_funcs=lambda completions, **columns: rewards,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": list(batch.instructions)}),
            processing_class=load_word_tokenizer(directory),
        )
        self.trainer.remove_callback(PrinterCallback)
        self.trainer.meter = Meter(device)

    def train(self, meter: Meter, before_step: Callable[[int], None] = lambda step: None) -> None:
        """All steps; `before_step` is called with the number of each before it, outside the clock."""
        self.trainer.meter = meter
        self.trainer.add_callback(_Rounds(self.trainer, before_step))
        self.trainer.train()

    def evaluate(self, completions: Completions, advantages: Tensor) -> Evaluation:
        trainer, width = self.trainer, completions.token_ids.shape[1]
        tokens = trainer.processing_class(list(self.batch.instructions), return_tensors="pt")
        prompt_ids = tokens["input_ids"].to(completions.token_ids.device)
        prompt_ids = prompt_ids.repeat_interleave(self.geometry.group_size, dim=0)
        mask = completions.mask.long()
        row = (torch.cat([prompt_ids, completions.token_ids], 1), torch.cat([torch.ones_like(prompt_ids), mask], 1))
        with torch.no_grad():
            logprobs, reference_logprobs = (
                GRPOTrainer._get_per_token_logps_and_entropies(trainer, model, *row, width)[0]
                for model in (trainer.model, trainer.ref_model)
            )
        trainer.current_gradient_accumulation_steps = 1
        loss = trainer.compute_loss(
            trainer.model,
            {
                "prompt_ids": prompt_ids,
                "prompt_mask": torch.ones_like(prompt_ids),
                "completion_ids": completions.token_ids,
                "completion_mask": mask,
                "advantages": advantages,
                "ref_per_token_logps": reference_logprobs,
            },
        )
        return Evaluation(logprobs, reference_logprobs, loss.item(), gradients=None)
