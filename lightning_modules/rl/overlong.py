"""Soft punishment of overlong completions (DAPO, arXiv 2503.14476)."""

from torch import Tensor


def check_buffer(max_new_tokens: int, buffer_tokens: int) -> None:
    """Refuse a buffer that does not fit into a completion.

    Raises:
        ValueError: fewer than one token, or more than `max_new_tokens`.
    """
    if not 1 <= buffer_tokens <= max_new_tokens:
        raise ValueError(
            f"An overlong buffer of {buffer_tokens} tokens does not fit completions of at most {max_new_tokens}. "
            f"Expected 1 to {max_new_tokens} (max_new_tokens of the rollouts' sampling)."
        )


def overlong_penalty(lengths: Tensor, max_new_tokens: int, buffer_tokens: int) -> Tensor:
    """0 up to `max_new_tokens - buffer_tokens` tokens, then falling linearly to -1 at `max_new_tokens`.

    Args:
        lengths: tokens per completion, the end-of-sequence token included, int64 `[N]`.
        max_new_tokens: longest completion that is sampled.
        buffer_tokens: length of the fall.

    Returns:
        float32 `[N]`, in [-1, 0].

    Raises:
        ValueError: see `check_buffer`.
    """
    check_buffer(max_new_tokens, buffer_tokens)
    return ((max_new_tokens - buffer_tokens - lengths) / buffer_tokens).clamp(-1.0, 0.0)
