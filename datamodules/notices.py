"""What is said while data are read: by the first process of a run alone, and without importing Lightning."""

import logging
import warnings

from lightning_utilities.core.rank_zero import rank_zero_only

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)
if not logging.getLogger().hasHandlers():  # as Lightning shows its own
    _log.addHandler(logging.StreamHandler())
    _log.propagate = False


def inform(message: str) -> None:
    """Log a message on standard error."""
    if _is_first():
        _log.info(message)


def warn(message: str) -> None:
    """Warn of something that a user may want to change."""
    if _is_first():
        warnings.warn(message, stacklevel=2)


def _is_first() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0  # Lightning sets it when it is imported; a tool is one process
