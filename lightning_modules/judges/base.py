"""What a judge is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from datamodules.emotions import Taxonomy

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Judge(Protocol):
    """Names the emotion that a rationale speaks of."""

    name: str
    """Stands in `metrics.json`: who judged."""

    def judge(self, rationales: Sequence[str], taxonomy: Taxonomy) -> list[str | None]:
        """Canonical emotion of each rationale, or None where the reply is invalid."""
        ...


def find_device(name: str) -> "torch.device":
    """The device of a name such as `cpu` or `cuda:1`; `auto` is a GPU if there is one."""
    import torch  # a second, which a judge behind an endpoint does without

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
