"""Which errors are those of a tracker's client. Imports none of them."""

_CLIENTS = {"mlflow", "wandb"}


def is_of_tracker(error: BaseException) -> bool:
    """Whether an error says that a tracker's server, or the way to it, fails."""
    return any(own.__module__.partition(".")[0] in _CLIENTS for own in type(error).__mro__)
