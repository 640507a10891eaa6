"""The options of `python main.py estimate`."""

from rich.console import Console

from tools.cross_validation import fit_config, parser_beside_fit
from tools.estimate.limits import CHIPS, Limits
from tools.estimate.sizes import GEOMETRIES

_DATA = "--data=datamodules.clips.Clips"
"""Stands where no corpus is named: of the data, only the batch size matters."""

_DESCRIPTION = """What stage 3 needs of each device: memory by phase, checkpoint size, least time per step.

Give what `fit` is given (`python main.py fit --help`), without data if you like. No weights are read: the backbone is
built from config.json, tokenizer and preprocessing settings, without numbers in it. Formulas: docs/scaling.md."""
_EXAMPLE = """examples:
  python main.py estimate -c configs/trainer/default.yaml -c configs/trainer/gpu.yaml -c configs/stage/grpo.yaml \\
      -c configs/backbone/qwen2_5_omni.yaml --trainer.devices 8 --chip H200
  python main.py estimate --geometry 7b -c configs/trainer/gpu.yaml -c configs/stage/grpo.yaml \\
      -c configs/backbone/humanomni_7b.yaml    without a network: sizes of the paper's 7B model"""


def run_estimate(arguments: list[str]) -> None:
    """Run `python main.py estimate`: tables on the screen.

    Args:
        arguments: the command line after `estimate`: own options and those of `fit`.

    Raises:
        StageError, ValueError: the options are wrong.
    """
    parser = parser_beside_fit("estimate", "own options", _DESCRIPTION, _EXAMPLE)
    parser.add_argument("--chip", choices=CHIPS, default="H100", help="The devices (default: %(default)s, SXM).")
    parser.add_argument("--device_memory_gib", type=float, help="Memory of a device (default: the chip's).")
    parser.add_argument("--teraflops", type=float, help="Its peak, 10¹² FLOP/s (default: the chip's, dense bfloat16).")
    parser.add_argument("--bandwidth", type=float, help="Of its memory, 10¹² bytes/s (default: the chip's).")
    parser.add_argument("--geometry", choices=GEOMETRIES, help="Sizes of HumanOmni models, in place of a checkpoint.")
    parser.add_argument("--prompt_tokens", type=int, help="Positions of a prompt (default: counted).")
    parser.add_argument("--clip_seconds", type=float, default=10.0, help="Length of the clips (default: %(default)s).")
    own, passed_on = parser.parse_known_args(arguments)
    limits = CHIPS[own.chip]
    limits = Limits(
        flops=limits.flops if own.teraflops is None else own.teraflops * 1e12,
        bandwidth=limits.bandwidth if own.bandwidth is None else own.bandwidth * 1e12,
        memory_gib=own.device_memory_gib or limits.memory_gib,
    )
    # Torch and transformers take seconds to import, and `--help` does without.
    import transformers

    from tools.estimate.estimate import estimate, show

    transformers.logging.set_verbosity_error()
    try:
        result = estimate(fit_config([_DATA, *passed_on]), limits, own.geometry, own.prompt_tokens, own.clip_seconds)
    except ValueError as error:
        if own.geometry is not None or "no directory here" not in str(error):
            raise
        raise ValueError(
            f"{error} Without it: --geometry {', '.join(GEOMETRIES)}, with configs/backbone/humanomni*.yaml."
        ) from error
    show(Console(), result, limits)
