"""Attention kernels that give wrong results, and are switched off."""

import torch


def avoid_broken_kernels() -> None:
    """Keep `scaled_dot_product_attention` on CUDA from cuDNN's kernel, which returns NaN gradients on Hopper.

    It does so under a mask, where the number of keys is 64 more than a multiple of 128 and a row's log-sum-exp is low
    (https://github.com/pytorch/pytorch/issues/196678). docs/upgrading.md says which versions of torch are concerned.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
