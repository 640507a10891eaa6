"""Cross-entropy of single tokens, which is their negative log-probability: PyTorch's, or Liger's kernel on a GPU.

Shape legend: N tokens, V vocabulary.
"""

from collections.abc import Callable

from torch import Tensor, nn

TokenCrossEntropy = Callable[[Tensor, Tensor], Tensor]
"""From float32 logits `[N, V]` and token ids `[N]` to `[N]`. It may overwrite the logits."""


def token_cross_entropy(logits: Tensor, token_ids: Tensor) -> Tensor:
    """PyTorch's fused log-softmax + gather."""
    return nn.functional.cross_entropy(logits, token_ids, reduction="none")


def liger_cross_entropy() -> TokenCrossEntropy:
    """Liger's Triton kernel (arXiv 2410.10989, section 3.2): one pass, and the gradient in place of the logits.

    Raises:
        ValueError: Liger or Triton is not installed.
    """
    try:
        from liger_kernel.ops import LigerCrossEntropyFunction
    except ModuleNotFoundError as error:
        raise ValueError(
            f"use_liger_kernel needs the package {error.name}: pip install -c constraints.txt -e '.[liger]'. "
            "Or set use_liger_kernel to false."
        ) from error

    def cross_entropy(logits: Tensor, token_ids: Tensor) -> Tensor:
        # No class weights, no ignored index, neither z-loss nor label smoothing; further options keep their defaults.
        loss, *_ = LigerCrossEntropyFunction.apply(logits, token_ids, None, -100, 0.0, 0.0, "none")
        return loss

    return cross_entropy
