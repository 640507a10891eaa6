"""What a sampler is: it draws completions in place of the policy's own loop, from weights that it is sent."""

from abc import ABC, abstractmethod

from lightning_modules.backbones.interface import Backbone, Completions, Prompt, Sampling
from lightning_modules.processes import once


class SamplerError(RuntimeError):
    """A sampler cannot be used, or did not do what it was asked."""


class Sampler(ABC):
    """Draws completions for prompts that the policy has encoded.

    Args:
        every_n_steps: optimizer steps after which weights are sent anew. More than 1 samples from older weights, which
            the importance weights of `GRPOModule.correction` make up for.

    Raises:
        ValueError: fewer than one step.
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        if every_n_steps < 1:
            raise ValueError(f"A sampler is sent weights every {every_n_steps} steps. Expected 1 or more.")
        self.every_n_steps = every_n_steps
        self.sent: int | None = None
        """Optimizer steps that the weights which it has have seen; None: it has none of this run."""

    def follow(self, backbone: Backbone, step: int, must: bool = False) -> int:
        """Send the policy's weights if they are due. Every process calls it, with whole weights; the first one sends.

        Args:
            backbone: the policy.
            step: optimizer steps so far.
            must: send also what is younger than `every_n_steps`, unless there is nothing new.

        Returns:
            Optimizer steps that the sampler is behind.

        Raises:
            SamplerError: they could not be sent.
        """
        behind = None if self.sent is None else step - self.sent
        if behind is None or behind < 0 or behind >= (1 if must else self.every_n_steps):
            once(lambda: self.send(backbone), SamplerError)
            self.sent = step
        return step - (self.sent or 0)

    @abstractmethod
    def send(self, backbone: Backbone) -> None:
        """Make the sampler's weights those of a policy.

        Raises:
            SamplerError: that failed.
        """

    @abstractmethod
    def generate(
        self, backbone: Backbone, prompt: Prompt, num_return_sequences: int, sampling: Sampling
    ) -> Completions:
        """What `Backbone.generate` returns, on the prompt's device.

        Raises:
            SamplerError: there are no such completions to be had.
        """
