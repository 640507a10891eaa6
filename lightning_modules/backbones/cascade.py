"""Attention of many rows to the keys of a prompt that they share, and to keys of their own (arXiv 2402.05099).

One softmax over both parts, computed in one of two ways, equal up to float error:

- *merged*: PyTorch's flash kernel for CPUs runs over each part and never writes the attention weights down. With the
  outputs oᵢ and log-sum-exps lᵢ of the parts, l = log Σ exp lᵢ and o = Σ exp(lᵢ − l)·oᵢ (arXiv 2205.14135, section 3).
- *written*: the products with both parts land in one tensor, whose softmax is one pass. For few queries, as while
  sampling, and for other devices.

Shape legend: B prompts, W rows per prompt, P prompt positions, T positions of a row so far, S of them new, D head size,
A key-value heads, R query heads per key-value head.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
"""What F.scaled_dot_product_attention runs on a CPU. It hides the log-sum-exp, without which parts cannot be merged."""


def cascade_attention(
    queries: Tensor,
    prompt_keys: Tensor,
    prompt_values: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    unseen: Tensor | None,
) -> Tensor:
    """softmax([Q Kpᵀ, Q Koᵀ]) [Vp; Vo]; a query sees the prompt and the row's own positions up to its own.

    Args:
        queries: of the last S own positions, scaled already: `[B, A, W, R, S, D]`.
        prompt_keys: `[B, A, P, D]`.
        prompt_values: likewise.
        own_keys: `[B, A, W, T, D]`.
        own_values: likewise.
        unseen: padding of the prompts, bool `[B, P]`, or None for none. A prompt has one position that is seen.

    Returns:
        `[B, A, W, R, S, D]`.
    """
    num_positions = queries.shape[4]
    merged = queries.device.type == "cpu" and 1 < num_positions == own_keys.shape[3]
    with torch.autocast(queries.device.type, enabled=False):
        if merged:
            return _MergedAttention.apply(queries, prompt_keys, prompt_values, own_keys, own_values, unseen)
        return _written_attention(queries, prompt_keys, prompt_values, own_keys, own_values, unseen)


def _written_attention(
    queries: Tensor,
    prompt_keys: Tensor,
    prompt_values: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    unseen: Tensor | None,
) -> Tensor:
    slots, length = queries.shape[2:5], prompt_keys.shape[2]
    num_positions, num_own = slots[-1], own_keys.shape[3]
    scores = queries.new_empty(*queries.shape[:5], length + num_own)
    scores[..., :length] = (queries.flatten(2, 4) @ prompt_keys.mT).unflatten(2, slots)
    scores[..., length:] = (queries.flatten(3, 4) @ own_keys.mT).unflatten(3, slots[1:])
    if unseen is not None:
        scores[..., :length].masked_fill_(unseen[:, None, None, None, None], -torch.inf)
    if num_positions > 1:
        later = torch.ones(num_positions, num_own, dtype=torch.bool, device=scores.device)
        scores[..., length:].masked_fill_(later.triu(num_own - num_positions + 1), -torch.inf)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(queries.dtype)
    of_prompt = (weights[..., :length].flatten(2, 4) @ prompt_values).unflatten(2, slots)
    return of_prompt + (weights[..., length:].flatten(3, 4) @ own_values).unflatten(3, slots[1:])


class _MergedAttention(torch.autograd.Function):
    """Both parts by the flash kernel; only what goes in and comes out is kept for the backward pass.

    There, each part's kernel is given the merged output and log-sum-exp. It computes weights P = exp(S − l) and
    dS = P ∘ (dO Vᵀ − rowsum(dO ∘ O)), which are then those of the softmax over both parts (arXiv 2310.01889).
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        queries: Tensor = inputs[0]
        outputs, sums = [], []
        for fold, keys, values, options in _parts(*inputs):
            output, log_sum_exp = _flash(fold(queries), keys, values, **options)
            outputs.append(output.reshape(queries.shape))
            sums.append(log_sum_exp.reshape(queries.shape[:-1]))
        of_prompt, of_own = (output.to(sums[0].dtype) for output in outputs)  # float32 where queries are narrower
        share = torch.sigmoid(sums[0] - sums[1])[..., None]  # of the prompt: exp(l₀ − l)
        merged = torch.lerp(of_own, of_prompt, share).to(queries.dtype)
        ctx.save_for_backward(*inputs, merged, torch.logaddexp(*sums))
        return merged

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, output, sums = ctx.saved_tensors
        queries, *keys_and_values = inputs[:-1]
        of_queries, of_parts = [], []
        for fold, keys, values, options in _parts(*inputs):
            of_rows, *of_part = _flash_backward(
                fold(gradient), fold(queries), keys, values, fold(output), fold(sums), dropout_p=0.0, **options
            )
            of_queries.append(of_rows.reshape(queries.shape))
            of_parts += [of_each_row.sum(dim=1) for of_each_row in of_part]
        shared = [part.view_as(tensor) for part, tensor in zip(of_parts, keys_and_values, strict=True)]
        return of_queries[0] + of_queries[1], *shared, None


def _parts(
    queries: Tensor,
    prompt_keys: Tensor,
    prompt_values: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    unseen: Tensor | None,
) -> list[tuple[Callable[[Tensor], Tensor], Tensor, Tensor, dict[str, Any]]]:
    """What the kernel is called with for the prompt and for the own positions.

    Returns:
        For each part a function that brings `[B, A, W, R, S, ...]` into the order of the kernel, `[batch, heads,
        queries, ...]`; keys and values of the part for each head, without a copy; and options.
    """
    batch, num_heads, width, num_query_heads, num_positions = queries.shape[:5]
    # The kernel's backward pass gives a thread whole heads, and makes gradients of keys and values for each head: of a
    # prompt it gets one, with all of the rows' queries, or one for each row where threads would be idle.
    num_parts = 1 if batch * num_heads >= torch.get_num_threads() else width
    mask = None
    if unseen is not None:
        # The lowest finite number, not -inf: a block of keys that are all padding must not become NaN.
        lowest = torch.finfo(queries.dtype).min
        mask = torch.zeros(unseen.shape, dtype=queries.dtype, device=unseen.device).masked_fill_(unseen, lowest)
        mask = mask.repeat_interleave(num_heads, dim=0)[:, None, None]
        mask = mask.expand(-1, num_parts, width // num_parts * num_query_heads * num_positions, -1)

    def heads(vectors: Tensor, number: int) -> Tensor:
        return vectors.flatten(0, -3)[:, None].expand(-1, number, -1, -1)

    return [
        (
            lambda rows: rows.flatten(0, 1).unflatten(1, (num_parts, -1)).flatten(2, 4),
            heads(prompt_keys, num_parts),
            heads(prompt_values, num_parts),
            {"is_causal": False, "attn_mask": mask, "scale": 1.0},
        ),
        (
            lambda rows: rows.flatten(0, 2),  # heads of the kernel: query heads
            heads(own_keys, num_query_heads),
            heads(own_values, num_query_heads),
            {"is_causal": True, "attn_mask": None, "scale": 1.0},
        ),
    ]
