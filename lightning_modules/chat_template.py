"""Chat templates of downloaded models: programs of strangers, rendered once around a placeholder and under limits.

A question stays text (decision 4). transformers' sandbox keeps a template from Python's attributes, and its loops from
long ranges. Against loops within loops and multiplied texts, it renders in a process of its own with limited time and
memory.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.files.printable import printable
from datamodules.isolation import IsolatedFunction, Lost

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION = "\x00question\x00"
"""Stands for the question while the template is rendered. Not typeable: no other text is taken for it."""

_SECONDS = 10.0
_BYTES = 1 << 30
_MAX_CHARACTERS = 1 << 18
"""A template with instructions and tools of its own has a tenth of this."""


def render_around(
    tokenizer: "PreTrainedTokenizerBase", content: Any, placeholders: Sequence[str] = (QUESTION,), **options: Any
) -> list[str]:
    """What a chat template writes around the placeholders of a user's turn, up to the begin of the reply.

    Args:
        tokenizer: with the template.
        content: of the turn, as templates take it; holds each placeholder once.
        placeholders: in their order.
        options: of `apply_chat_template`, and variables of the template.

    Returns:
        The texts before, between and after the placeholders.

    Raises:
        ValueError: the template cannot be rendered within the limits, or does not write each placeholder once.
    """

    def render(_: None) -> tuple[str, str]:
        _limit_memory()
        try:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, **options
            )
        except Exception as error:  # noqa: BLE001 (whatever a stranger's template raises)
            return "", f"{type(error).__name__}: {error}"[:1000]
        if len(text) > _MAX_CHARACTERS:
            return "", f"it writes {len(text)} characters, expected at most {_MAX_CHARACTERS}"
        return text, ""

    isolated = IsolatedFunction(render, _SECONDS)
    result = isolated(None)
    isolated.close()
    text, reason = ("", f"its rendering {result.reason}") if isinstance(result, Lost) else result
    pieces = re.split("(" + "|".join(map(re.escape, placeholders)) + ")", text)
    if not reason and pieces[1::2] != list(placeholders):
        reason = f"of the parts of a turn it writes {pieces[1:20:2]}, expected {list(placeholders)}"
    if reason:
        raise ValueError(
            f"The chat template of {printable(tokenizer.name_or_path)} (chat_template.jinja or .json, or in "
            f"tokenizer_config.json) cannot be used: {printable(reason)}. Take the template of the model's publisher."
        )
    return pieces[::2]


def _limit_memory() -> None:
    import resource  # where processes fork, and there only

    with suppress(OSError):  # no /proc: not Linux
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _BYTES, resource.RLIM_INFINITY))


def tokenize_around(tokenizer: "PreTrainedTokenizerBase", before: str, question: str, after: str) -> list[int]:
    """Token ids of a rendered prompt. Only what stands around the question may hold special tokens, never the question.

    The question is read together with the text around it, up to the next special token on either side: a line break
    and a word may make other tokens together than apart.
    """
    plain = {"add_special_tokens": False, "split_special_tokens": True}
    if tokenizer(question, **plain)["input_ids"] == tokenizer(question, add_special_tokens=False)["input_ids"]:
        return tokenizer(before + question + after, add_special_tokens=False)["input_ids"]
    start, end = (tokenizer(text, add_special_tokens=False, return_offsets_mapping=True) for text in (before, after))
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    last = max((i for i, token in enumerate(start["input_ids"]) if token in special), default=None)
    first = next((i for i, token in enumerate(end["input_ids"]) if token in special), None)
    begins = 0 if last is None else start["offset_mapping"][last][1]
    ends = len(after) if first is None else end["offset_mapping"][first][0]
    middle = before[begins:] + question + after[:ends]
    return [
        *start["input_ids"][: 0 if last is None else last + 1],
        *tokenizer(middle, **plain)["input_ids"],
        *([] if first is None else end["input_ids"][first:]),
    ]
