"""`python main.py language_model`: a policy's language model alone, as inference servers load it."""

from pathlib import Path

from rich.console import Console

from datamodules.files.writing import require_directory
from lightning_modules.backbones.interface import Backbone


def write_language_model(backbone: Backbone, output: str) -> None:
    """Write a policy's language model as a Hugging Face directory: what `vllm serve` is started on (docs/scaling.md).

    Args:
        backbone: class of the policy, its options as `--backbone.OPTION`.
        output: directory; on Linux, one in /dev/shm makes each exchange of weights a copy in memory.

    Raises:
        ValueError: the backbone's language model cannot be served alone.
    """
    require_directory(output, "the language model")
    Path(output).mkdir(parents=True, exist_ok=True)
    backbone.save_language_model(Path(output))
    Console().print(
        f"Written: {output}. Serve it with\n  VLLM_SERVER_DEV_MODE=1 vllm serve {output} --enable-prompt-embeds "
        "--logprobs-mode processed_logprobs",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
