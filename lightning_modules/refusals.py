"""Options of Lightning that cannot work in stages 1 and 3: refused before a run begins, with what to use instead."""

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)

_AVERAGES = (
    "pairs the module's tensors by their order with those of a copy from before the reference is made, and expects "
    "frozen ones in checkpoints. Lower model.learning_rate, or use a falling model.schedule"
)
_WHY: dict[type[Callback], str] = {
    LearningRateFinder: "tries learning rates without the run's own callbacks, which sample, score and count in each "
    "step. Set model.learning_rate, and compare a few values in short runs (trainer.max_steps)",
    BatchSizeFinder: "tries batch sizes without the run's own callbacks, which sample, score and count in each step. "
    "Set data.batch_size; `python main.py estimate` says what stage 3 needs of a device",
    WeightAveraging: _AVERAGES,
    StochasticWeightAveraging: _AVERAGES,
}
FINDERS: tuple[type[Callback], ...] = (LearningRateFinder, BatchSizeFinder)
AVERAGING: tuple[type[Callback], ...] = (WeightAveraging, StochasticWeightAveraging)


def refuse_callbacks(trainer: Trainer, *kinds: type[Callback]) -> None:
    """Refuse a trainer with a callback of some kinds.

    Args:
        trainer: of the run.
        kinds: of `FINDERS` and `AVERAGING`.

    Raises:
        ValueError: there is one; says why, and what to do instead.
    """
    for callback in trainer.callbacks:
        for kind in kinds:
            if isinstance(callback, kind):
                raise ValueError(
                    f"{type(callback).__name__} does not work here: it {_WHY[kind]}, and take it out of "
                    "trainer.callbacks."
                )


def refuse_automatic_steps(trainer: Trainer) -> None:
    """Refuse Trainer options for which a module that makes its own optimizer steps has options of its own.

    Lightning refuses them, too, but cannot name the options.

    Raises:
        ValueError: the trainer is to clip or accumulate gradients.
    """
    if trainer.gradient_clip_val:
        raise ValueError(
            "Stage 3 clips gradients itself, once per update: take trainer.gradient_clip_val out, and set "
            f"model.gradient_clip_norm to {trainer.gradient_clip_val}."
        )
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            "Stage 3 makes its optimizer steps itself, one per update: take trainer.accumulate_grad_batches out, and "
            "set model.global_batch or data.batch_size; model.micro_batch_size and model.rollout_batch_size cut a "
            "batch into parts that fit."
        )
