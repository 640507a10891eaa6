"""What a backbone of transformers samples and scores, beside the model's own forward on its processor's inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.batch import Clip, collate
from lightning_modules.backbones.hf.backbone import HFBackbone
from lightning_modules.backbones.interface import Prompt, Sampling


def own_logprobs(backbone: HFBackbone, inputs: dict[str, Any], completion: Tensor) -> Tensor:
    """Log-probabilities of a completion's tokens by the model's own forward over prompt and completion."""
    length = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], completion[None]], dim=1)
    with torch.no_grad():
        logits = backbone.model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits
    return logits[0, length - 1 : -1].log_softmax(-1).gather(1, completion[:, None])[:, 0]


def assert_equal_to_own_forward(
    backbone: HFBackbone, clips: Sequence[Clip], inputs_of: Callable[[Clip], dict[str, Any]]
) -> tuple[Prompt, Tensor]:
    """Two completions of each clip, sampled and scored: to 1e-4 what the model itself gives.

    Args:
        backbone: the model.
        clips: of different questions, sound and length.
        inputs_of: from a clip to the arguments of the model's forward, as transformers' processor makes them.

    Returns:
        The prompts, and the scores of two given texts behind each.
    """
    prompt = backbone.encode(collate(list(clips)))
    sampled = backbone.generate(prompt, 2, Sampling(max_new_tokens=5))
    torch.testing.assert_close(backbone.logprobs(prompt, sampled), sampled.logprobs, atol=1e-4, rtol=0)
    # Not the sampled ones: in its own forward, the model takes random media tokens among them for media.
    completions = backbone.completion_ids(["The man frowns.", "He shouts."] * len(clips))
    scored = backbone.logprobs(prompt, completions)
    for i, clip in enumerate(clips):
        inputs = inputs_of(clip)
        assert prompt.attention_mask[i].sum() == inputs["input_ids"].shape[1]
        for row in (2 * i, 2 * i + 1):
            keep = completions.mask[row]
            expected = own_logprobs(backbone, inputs, completions.token_ids[row][keep])
            torch.testing.assert_close(scored[row][keep], expected, atol=1e-4, rtol=0)
    return prompt, scored
