"""What is computed of prompts, for every backbone: keys and values of all layers, and no more of the last one."""

import pytest
import torch
from torch import Tensor, nn

from datamodules.batch import ClipBatch
from lightning_modules.backbones import prefix
from lightning_modules.backbones.decoder_backbone import DecoderBackbone
from lightning_modules.backbones.prefix import Prefix

pytestmark = pytest.mark.numerics


@torch.no_grad()
def test_of_the_last_layer_nothing_but_keys_and_values(
    model: DecoderBackbone, clips: ClipBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = model.encode(clips)
    # Layers behind the last that has keys of its own read those of others (Gemma); some have a state (Qwen3.5).
    attentions = [(layer, getattr(layer, "self_attn", None)) for layer in model.decoder.body.layers]
    projections = ("q_proj", "k_proj")
    if hasattr(attentions[0][1], "qkv_proj"):  # one for all three (Phi)
        projections = ("qkv_proj",)
    first, *_, last = [layer for layer, attention in attentions if hasattr(attention, projections[-1])]
    widths: dict[str, int] = {}

    def watch(name: str, module: nn.Module) -> None:
        forward = module.forward
        monkeypatch.setattr(module, "forward", lambda rows: widths.setdefault(name, rows.shape[1]) and forward(rows))

    watch("first", first.mlp)
    for name in ("mlp", *(f"self_attn.{name}" for name in (*projections, "o_proj"))):
        watch(name, last.get_submodule(name))

    def shared() -> list[tuple[Tensor, Tensor]]:
        layers = Prefix(model.decoder, prompt).cache.layers
        return [(layer.keys, layer.values) for layer in layers if hasattr(layer, "keys")]

    ended = shared()
    length = prompt.embeddings.shape[1] - 1
    assert widths == {"first": length, **{f"self_attn.{name}": length for name in projections}}
    monkeypatch.setattr(prefix._PromptCache, "is_filled", True)
    torch.testing.assert_close(ended, shared(), atol=0, rtol=0)
