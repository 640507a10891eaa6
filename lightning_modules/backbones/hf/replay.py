"""Running a multimodal model of transformers up to its language model, its frozen towers answering from memory.

A model's own forward pass turns token ids and media into what its language model takes in: it knows where media tokens
go, their positions in time and space, and whatever else the language model wants. That code is not written again here.
Two of its calls are replaced while it runs:

- the language model's, by one that only notes its arguments (`capture`);
- those of the towers, by ones that note their results (`record`), and later return them (`replay`). So the towers run
  once per clip, while projectors behind them run again, with gradient.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from lightning_modules.backbones.patching import replaced

Recording = list[Any]
"""What the kept calls returned, in the order of the calls."""


@dataclass(frozen=True)
class Call:
    """A method whose results are remembered.

    Args:
        owner: a module, or the model.
        name: of the method: `forward`, or e.g. `get_image_features`.
        kept: False: nobody but the next call reads the result. It is not stored, and at replay the first argument is
            returned in its place.
    """

    owner: Any
    name: str = "forward"
    kept: bool = True


@contextmanager
def record(calls: list[Call]) -> Iterator[Recording]:
    """Remember what the calls return while the block runs."""
    recording: Recording = []

    def recorder(call: Call) -> Callable[..., Any]:
        original = getattr(call.owner, call.name)

        def method(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            # A deep copy: callers write into model outputs, and some into their tensors. Of what is not kept, only its
            # form is needed.
            recording.append(copy.deepcopy(result) if call.kept else isinstance(result, tuple))
            return result

        return method

    with ExitStack() as stack:
        for call in calls:
            stack.enter_context(replaced(call.owner, call.name, recorder(call)))
        yield recording


@contextmanager
def replay(calls: list[Call], recording: Recording) -> Iterator[None]:
    """Let the calls return, in the same order, what `record` remembered."""
    results = iter(recording)

    def player(call: Call) -> Callable[..., Any]:
        def method(*args: Any, **kwargs: Any) -> Any:
            result = next(results)
            if call.kept:
                return copy.deepcopy(result)
            stand_in = args[0] if args else next(iter(kwargs.values()))
            return (stand_in,) if result else stand_in

        return method

    with ExitStack() as stack:
        for call in calls:
            stack.enter_context(replaced(call.owner, call.name, player(call)))
        yield


def capture(model: nn.Module, language_model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Arguments with which a model would call its language model.

    Args:
        model: the multimodal model, without its head.
        language_model: its text model.
        inputs: arguments of the model's forward.
    """
    captured: dict[str, Any] = {}

    def note(*args: Any, **kwargs: Any) -> BaseModelOutputWithPast:
        captured.update(kwargs)
        return BaseModelOutputWithPast(last_hidden_state=kwargs["inputs_embeds"])

    with replaced(language_model, "forward", note):
        model(**inputs, use_cache=False)
    return captured
