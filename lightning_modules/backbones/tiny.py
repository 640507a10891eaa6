"""Tiny random-weight models of the real architectures, for machines without GPU or hub access (demo and tests).

Real classes, real tokenizers (byte-level BPE trained on the spot), real directories: what loads these loads the
published weights. transformers is imported where it is needed: the command's `--help` does without.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from datamodules.clip_source import INSTRUCTION
from datamodules.emotions import GO_EMOTIONS
from datamodules.files.json_files import read_json, read_json_lines
from datamodules.files.text import read_text

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Turns as in Qwen2.5, without a default system message: a tiny model has nothing to learn from it."""

_TAGS = ("<vi_start>", "<vi_end>", "<au_start>", "<au_end>", "<think>", "</think>", "<answer>", "</answer>")


def read_texts(path: Path) -> Iterator[str]:
    """Every string value in a JSON or JSONL file, or the whole of any other text file."""
    if path.suffix == ".jsonl":
        for value, _ in read_json_lines(path):
            yield from _strings(value)
    elif path.suffix == ".json":
        yield from _strings(read_json(path))
    else:
        yield read_text(path)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def train_tokenizer(texts: list[str], vocab_size: int, special_tokens: list[str]) -> Tokenizer:
    """Byte-level BPE: any text round-trips; `special_tokens` get the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _init_std(hidden_size: int) -> float:
    """Keeps the variance of a layer's input; the 0.02 of wide models makes narrow ones all but blind to their input."""
    return hidden_size**-0.5


def _write_language_model(
    directory: Path, texts: list[str], vocab_size: int, hidden_size: int, num_layers: int
) -> None:
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(texts, vocab_size, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
    )
    # One token each: they stand in every prompt or completion, and a tiny model has no capacity to spell them.
    tokenizer.add_tokens(list(_TAGS))
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(directory)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=hidden_size // 64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=_init_std(hidden_size),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(directory)


def _write_vision(directory: Path, image_size: int, patch_size: int, hidden_size: int) -> None:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=1,
        num_attention_heads=hidden_size // 32,
        image_size=image_size,
        patch_size=patch_size,
        vision_use_head=False,
    )
    SiglipVisionModel(config).save_pretrained(directory)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": image_size, "width": image_size}}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings, indent=2))


def _write_audio(directory: Path, seconds: int, hidden_size: int) -> None:
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=hidden_size,
        encoder_layers=1,
        encoder_attention_heads=hidden_size // 32,
        encoder_ffn_dim=2 * hidden_size,
        init_std=_init_std(hidden_size),
        num_mel_bins=40,
        max_source_positions=50 * seconds,
    )
    WhisperEncoder(config).save_pretrained(directory)
    WhisperFeatureExtractor(feature_size=40, chunk_length=seconds).save_pretrained(directory)


def _write_verifier(directory: Path, texts: list[str], vocab_size: int, hidden_size: int) -> None:
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    base = train_tokenizer(texts, vocab_size, special)
    base.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=512,
    )
    tokenizer.save_pretrained(directory)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=1,
        num_attention_heads=hidden_size // 32,
        max_position_embeddings=514,
        initializer_range=_init_std(hidden_size),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=len(GO_EMOTIONS),
        id2label=dict(enumerate(GO_EMOTIONS)),
        label2id={label: i for i, label in enumerate(GO_EMOTIONS)},
        problem_type="multi_label_classification",
    )
    RobertaForSequenceClassification(config).save_pretrained(directory)


def write_tiny_models(
    output: str,
    texts: list[str],
    verifier_texts: list[str] | None = None,
    seed: int = 0,
    vocab_size: int = 1024,
    hidden_size: int = 64,
    num_layers: int = 3,
    image_size: int = 96,
    patch_size: int = 16,
    audio_seconds: int = 2,
) -> None:
    """Write tiny random-weight models: `vision/`, `audio/`, `language_model/` for the policy, and `verifier/`.

    Args:
        output: directory to write to.
        texts: files (JSON, JSONL or plain text) on whose strings the policy's tokenizer is trained.
        verifier_texts: likewise for the verifier's tokenizer; by default the same files.
        seed: seed of the random weights.
        vocab_size: tokens of each tokenizer, at most.
        hidden_size: width of the language model, a multiple of 64.
        num_layers: layers of the language model; the encoders and the verifier have one.
        image_size: frame size of the vision encoder, in pixels, a multiple of `patch_size`.
        patch_size: side of the vision encoder's patches, in pixels.
        audio_seconds: length of the audio encoder's window, in seconds.

    Raises:
        ValueError: sizes that do not divide as stated.
    """
    if hidden_size % 64 or image_size % patch_size:
        raise ValueError(
            f"hidden_size must be a multiple of 64 and image_size of patch_size. Got hidden_size={hidden_size}, "
            f"image_size={image_size}, patch_size={patch_size}."
        )
    import torch
    from lightning.pytorch.utilities.seed import isolate_rng

    corpus = [text for path in texts for text in read_texts(Path(path))]
    verifier_corpus = [text for path in verifier_texts or texts for text in read_texts(Path(path))]
    root = Path(output)
    encoder_size = max(hidden_size // 2, 64)
    with isolate_rng():
        torch.manual_seed(seed)
        _write_vision(root / "vision", image_size, patch_size, encoder_size)
        _write_audio(root / "audio", audio_seconds, encoder_size)
        _write_language_model(root / "language_model", [*corpus, INSTRUCTION], vocab_size, hidden_size, num_layers)
        _write_verifier(root / "verifier", verifier_corpus, vocab_size, encoder_size)
