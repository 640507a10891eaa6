"""Models: everything that this project runs on a GPU is loaded by this package, so that kernels are chosen here."""

from lightning_modules.backbones.attention_kernels import avoid_broken_kernels

avoid_broken_kernels()
