"""Who samples completions: the policy itself, or an inference engine that has its weights."""

from lightning_modules.samplers.base import Sampler, SamplerError
from lightning_modules.samplers.vllm import VLLMSampler

__all__ = ["Sampler", "SamplerError", "VLLMSampler"]
