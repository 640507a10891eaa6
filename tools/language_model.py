"""`python main.py language_model`: a policy's language model alone, as inference servers load it."""

from pathlib import Path

from rich.console import Console

from datamodules.files.writing import require_directory


def write_language_model(path: str, output: str) -> None:
    """Write a policy's language model as a Hugging Face directory: what `vllm serve` is started on (docs/scaling.md).

    Args:
        path: directory of the policy, as `fit` exported it (`runs/cold_start/model`), or a HumanOmni checkpoint.
        output: directory; on Linux, one in /dev/shm makes each exchange of weights a copy in memory.

    Raises:
        ValueError: it is no such directory, or the weights do not fit in memory.
    """
    # Torch and transformers take seconds to import, and `--help` does without.
    from lightning_modules.backbones.composed import ComposedBackbone
    from lightning_modules.backbones.humanomni.backbone import HumanOmniBackbone

    require_directory(output, "the language model")
    is_composed = (Path(path) / "backbone.json").is_file()
    backbone = ComposedBackbone(path) if is_composed else HumanOmniBackbone(path)
    Path(output).mkdir(parents=True, exist_ok=True)
    backbone.save_language_model(Path(output))
    Console().print(
        f"Written: {output}. Serve it with\n  VLLM_SERVER_DEV_MODE=1 vllm serve {output} --enable-prompt-embeds "
        "--logprobs-mode processed_logprobs",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
