"""Running a multimodal model of transformers up to its language model, its frozen towers answering from memory.

A model's own forward pass turns token ids and media into what its language model takes in: it knows where media tokens
go, their positions in time and space, and whatever else the language model wants. That code is used as it is: it runs
until it calls the language model (`capture`). `record` notes what the towers return, and `replay` later returns it in
their place. So the towers run once per clip, while the projectors behind them run again, with gradient.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

Recording = list[Any]
"""What the kept calls returned, in the order of the calls."""


@dataclass(frozen=True)
class Call:
    """A module whose results are remembered.

    Args:
        module: part of a model.
        kept: False: nobody but the next call reads the result. It is not stored, and at replay the first argument is
            returned in its place.
    """

    module: nn.Module
    kept: bool = True


@contextmanager
def record(calls: list[Call]) -> Iterator[Recording]:
    """Remember what the calls return while the block runs."""
    recording: Recording = []

    def recorder(call: Call) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, result: Any) -> None:
            # A deep copy: callers write into model outputs, and some into their tensors. Of what is not kept, only its
            # form is needed.
            recording.append(copy.deepcopy(result) if call.kept else isinstance(result, tuple))

        return note

    hooks = [call.module.register_forward_hook(recorder(call)) for call in calls]
    try:
        yield recording
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def replay(calls: list[Call], recording: Recording) -> Iterator[None]:
    """Let the calls return, in the same order, what `record` remembered."""
    results = iter(recording)

    def player(call: Call) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            result = next(results)
            if call.kept:
                return copy.deepcopy(result)
            stand_in = args[0] if args else next(iter(kwargs.values()))
            return (stand_in,) if result else stand_in

        return forward

    with ExitStack() as stack:
        for call in calls:
            stack.enter_context(_running(call.module, player(call)))
        yield


@contextmanager
def _running(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module run another forward while the block runs: no hook can spare it its own."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


class _Captured(Exception):
    """The language model has been called."""


def capture(model: nn.Module, language_model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Arguments with which a model would call its language model, which does not run.

    Args:
        model: the multimodal model, without its head.
        language_model: its text model.
        inputs: arguments of the model's forward.
    """

    def stop(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        raise _Captured(kwargs)

    hook = language_model.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(**inputs, use_cache=False)
    except _Captured as captured:
        return captured.args[0]
    finally:
        hook.remove()
    raise RuntimeError(f"{type(model).__name__} did not call its language model, {type(language_model).__name__}.")
