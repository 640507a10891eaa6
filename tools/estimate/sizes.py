"""Sizes of HumanOmni models.

Decoders of Qwen2.5-0.5B, 3B and 7B with the towers of the paper: SigLIP base (0.5b) or so400m, Whisper large v3 and
BERT base. Sizes are as published; the paper has no 3B: it is Qwen2.5-3B's decoder with the 7B's towers.
"""

from typing import Any

DECODERS: dict[str, dict[str, Any]] = {
    "0.5b": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4_864,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "3b": {
        "hidden_size": 2_048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "intermediate_size": 11_008,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 3_584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18_944,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
    },
}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3_072}
SO400M = {"hidden_size": 1_152, "num_hidden_layers": 27, "num_attention_heads": 16, "intermediate_size": 4_304}

GEOMETRIES = tuple(DECODERS)
"""Names of the models."""
