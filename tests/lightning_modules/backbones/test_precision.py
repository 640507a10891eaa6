"""Weights that are cast once for many calls under autocast."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from lightning_modules.backbones.precision import cast_once

pytestmark = pytest.mark.numerics

CPU = torch.device("cpu")


class Casts(TorchDispatchMode):
    """Counts numbers that are cast to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") is torch.bfloat16:
            self.count += args[0].numel()
        return func(*args, **(kwargs or {}))


@pytest.fixture
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, tie_word_embeddings=True)).eval()


@torch.no_grad()
def test_nothing_changes_but_the_number_of_casts(model: Qwen2ForCausalLM) -> None:
    token, before = torch.tensor([[7]]), dict(model.named_parameters(remove_duplicate=False))
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        with Casts() as each_time:
            expected = model(token).logits
        with cast_once([model.model, model.lm_head], CPU), Casts() as once:
            assert model.lm_head.weight.dtype == torch.bfloat16
            assert model.get_input_embeddings().weight.dtype == torch.float32, "though tied to the head"
            assert torch.equal(model(token).logits, expected)
    num_weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert each_time.count > num_weights and once.count < num_weights / 10
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[name] is parameter for name, parameter in before.items())


def test_without_autocast_and_in_its_type_nothing_is_cast(model: Qwen2ForCausalLM) -> None:
    weight = model.lm_head.weight
    with cast_once([model], CPU):
        assert model.lm_head.weight is weight
    weight = model.to(torch.bfloat16).lm_head.weight
    with torch.autocast("cpu", torch.bfloat16), cast_once([model], CPU):
        assert model.lm_head.weight is weight


def test_weights_come_back_after_an_error(model: Qwen2ForCausalLM) -> None:
    weight = model.lm_head.weight
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(IndexError), cast_once([model], CPU):
        model(torch.tensor([[10_000]]))
    assert model.lm_head.weight is weight
