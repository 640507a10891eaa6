"""A local text model as judge."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal

from lightning_modules.chat_template import QUESTION, render_around, tokenize_around
from lightning_modules.judges.base import find_device
from lightning_modules.judges.prompt import PromptedJudge


class LanguageModelJudge(PromptedJudge):
    """Any causal language model of transformers as judge, asked the paper's question, decoded greedily.

    A model with a chat template gets the question as the user's turn, without thinking where the template can leave it
    out. Any other model continues the question, and its reply ends with the line. Weights come from safetensors, and no
    code of the model's is run.

    Args:
        path: Hugging Face directory or hub id, e.g. Qwen/Qwen3-4B-Instruct-2507.
        batch_size: rationales per forward pass.
        max_new_tokens: longest reply, in tokens.
        dtype: precision of the weights; in bfloat16 a near tie may fall differently in another batch.
        device: where it runs, e.g. `cpu` or `cuda:1`; `auto` is a GPU if there is one.

    Raises:
        ValueError: the path is no such model, its weights do not fit in memory, or a number is out of range.
    """

    def __init__(
        self,
        path: str,
        batch_size: int = 8,
        max_new_tokens: int = 16,
        dtype: Literal["float32", "bfloat16"] = "float32",
        device: str = "auto",
    ) -> None:
        # Torch and transformers take seconds to import: those of the judges do it that load a model.
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        from lightning_modules.backbones import loading

        super().__init__(f"language-model:{path}")
        if batch_size < 1 or max_new_tokens < 1:
            raise ValueError(f"Expected batch_size >= 1 and max_new_tokens >= 1; got {batch_size}, {max_new_tokens}.")
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.device = device
        directory = loading.find(path)
        loading.require_model_type(directory, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "path", "a causal language model")
        loading.require_memory(loading.count_weights(directory), dtype, "The judge")
        with loading.named(directory):
            self.tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
            self.model = AutoModelForCausalLM.from_pretrained(
                directory, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
            ).eval()
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        own = self.model.generation_config
        # A checkpoint's own settings may sample, or penalise words of the prompt: the names of the emotions. `generate`
        # takes from them whatever the settings that it is given leave open, so they have to go.
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            bos_token_id=own.bos_token_id,
            eos_token_id=own.eos_token_id if own.eos_token_id is not None else self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )

    def ask(self, prompts: Sequence[str]) -> Iterator[tuple[int, str | None]]:
        """Replies, shortest prompts first; None where a prompt and its reply are longer than the model's context."""
        tokens = [self._tokens(prompt) for prompt in prompts]
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        fitting = []
        for i in sorted(range(len(prompts)), key=lambda i: len(tokens[i])):
            if longest is not None and len(tokens[i]) + self.max_new_tokens > longest:
                yield i, None
            else:
                fitting.append(i)
        for start in range(0, len(fitting), self.batch_size):
            rows = fitting[start : start + self.batch_size]
            yield from zip(rows, self._replies([tokens[i] for i in rows]), strict=True)

    @cached_property
    def _template(self) -> list[str]:
        """What the chat template writes around a question. Templates without `enable_thinking` ignore it."""
        return render_around(self.tokenizer, QUESTION, enable_thinking=False)

    def _tokens(self, prompt: str) -> list[int]:
        if self.tokenizer.chat_template is None:
            return self.tokenizer(prompt, split_special_tokens=True)["input_ids"]
        before, after = self._template
        return tokenize_around(self.tokenizer, before, prompt, after)

    def _replies(self, rows: list[list[int]]) -> list[str]:
        device = find_device(self.device)
        self.model.to(device)
        inputs = self.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        output = self.model.generate(**inputs.to(device), max_new_tokens=self.max_new_tokens)
        new_tokens = output[:, inputs["input_ids"].shape[1] :]
        replies = self.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
        if self.tokenizer.chat_template is None:
            return [reply.strip().partition("\n")[0] for reply in replies]
        return replies
