"""The global batch: what one optimizer step of all processes learns from, dealt out to them and cut into passes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GlobalBatch:
    """A batch of `num_processes` × `batch_size` × `accumulation`.

    Args:
        num_processes: that share it.
        batch_size: clips or prompts of a pass on one process.
        accumulation: passes of an optimizer step.
    """

    num_processes: int
    batch_size: int
    accumulation: int = 1

    @property
    def total(self) -> int:
        """Clips or prompts of an optimizer step."""
        return self.num_processes * self.share

    @property
    def share(self) -> int:
        """Those of one process."""
        return self.batch_size * self.accumulation

    @classmethod
    def dealt(cls, total: int, num_processes: int, batch_size: int) -> "GlobalBatch":
        """A batch of a given total.

        Args:
            total: of `model.global_batch`.
            num_processes: of the run.
            batch_size: of `data.batch_size`.

        Raises:
            ValueError: it cannot be dealt out evenly; says what divides.
        """
        if total < 1:
            raise ValueError(f"model.global_batch is {total}. Expected 1 or more, or null.")
        share, rest = divmod(total, num_processes)
        if rest:
            more = num_processes * (share + 1)
            raise ValueError(
                f"model.global_batch is {total}, which {num_processes} processes cannot share evenly. Set "
                f"trainer.devices so that the number of processes is one of {_divisors(total)}, or model.global_batch "
                f"to {more}."
            )
        if share % batch_size:
            raise ValueError(
                f"model.global_batch is {total}, of which each of {num_processes} processes has {share}: batches of "
                f"data.batch_size {batch_size} do not make that up. Set data.batch_size to one of {_divisors(share)}."
            )
        return cls(num_processes, batch_size, share // batch_size)

    def describe(self, unit: str, published: int) -> str:
        """One line for the start of a run.

        Args:
            unit: what is counted, e.g. `prompts × 4 completions`.
            published: the paper's total.
        """
        devices = f"{self.num_processes} device{'s' if self.num_processes > 1 else ''}"
        advice = "" if self.total == published else f"; its learning rate goes with model.global_batch={published}"
        return (
            f"Global batch: {self.total} {unit} ({devices} × {self.batch_size} × accumulation {self.accumulation}); "
            f"the paper's: {published}{advice}"
        )


def _divisors(number: int) -> str:
    return ", ".join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)
