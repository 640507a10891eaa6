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
    layers = model.decoder.body.layers
    first, *_, last = [layer for layer in layers if hasattr(getattr(layer, "self_attn", None), "k_proj")]
    widths: dict[str, int] = {}

    def watch(name: str, module: nn.Module) -> None:
        forward = module.forward
        monkeypatch.setattr(module, "forward", lambda rows: widths.setdefault(name, rows.shape[1]) and forward(rows))

    watch("first", first.mlp)
    for name in ("mlp", "self_attn.q_proj", "self_attn.o_proj", "self_attn.k_proj"):
        watch(name, last.get_submodule(name))

    def shared() -> list[tuple[Tensor, Tensor]]:
        layers = Prefix(model.decoder, prompt).cache.layers
        return [(layer.keys, layer.values) for layer in layers if hasattr(layer, "keys")]

    ended = shared()
    length = prompt.embeddings.shape[1] - 1
    assert widths == {"first": length, "self_attn.q_proj": length, "self_attn.k_proj": length}
    monkeypatch.setattr(prefix._PromptCache, "is_filled", True)
    torch.testing.assert_close(ended, shared(), atol=0, rtol=0)
