"""Panels as Markdown, for TensorBoard's text tab: what the pictures say, in full and searchable."""

import html
from collections.abc import Sequence

from callbacks.colours import SYMBOLS
from callbacks.inspection.panel import Panel, ShownCompletion, ShownSentence

_LEGEND = (
    f"Read by the verifier: **{SYMBOLS['matching']}** the target emotion, **{SYMBOLS['neutral']}** neutral, "
    f"**{SYMBOLS['contradicting']}** another emotion."
)

_RELIANCE = "With a sign: what pictures and sound add to a sentence's log-probability, beside those of other clips."


def escaped(text: str) -> str:
    """Plain text inside a Markdown table cell: generated text can show as nothing but text."""
    # File names that are not UTF-8 hold halves of surrogate pairs, which no event can.
    valid = text.encode("utf-8", "replace").decode()
    plain = html.escape(" ".join(valid.split()), quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]|" else c for c in plain)


def _sentence(sentence: ShownSentence) -> str:
    mark = "" if sentence.relation is None else f"**{SYMBOLS[sentence.relation]}** "
    emotions = f" *({', '.join(map(escaped, sentence.emotions))})*" if sentence.emotions else ""
    return f"{mark}{escaped(sentence.text)}{emotions}{_reliance(sentence)}"


def _reliance(sentence: ShownSentence) -> str:
    """What pictures and sound tell of the sentence, in nats."""
    if sentence.reliance is None:
        return ""
    nats = {"pictures": sentence.reliance.pictures, "sound": sentence.reliance.sound}
    shown = ", ".join(f"{name} {value:+.1f}" for name, value in nats.items() if value is not None)
    return f" ({shown})" if shown else ""


def marked_rationale(completion: ShownCompletion) -> str:
    """The completion: its sentences, each with its mark and the emotions read in it, then the answer."""
    response = completion.response
    body = "<br>".join(map(_sentence, completion.sentences))
    if not body:
        body = f"no rationale: {escaped(response.completion)}" if response.completion else "empty completion"
    answer = "no answer" if response.answer is None else escaped(response.answer)
    return f"{body}<br>→ **{answer}**"


def _legend(panels: Sequence[Panel]) -> str:
    read = "No verifier read the sentences." if any(panel.is_unread for panel in panels) else _LEGEND
    shown = (s for panel in panels for completion in panel.completions for s in completion.sentences)
    return f"{read} {_RELIANCE}" if any(sentence.reliance is not None for sentence in shown) else read


def group_markdown(panel: Panel) -> str:
    """The completions of a training group: a table with each reward and the advantage."""
    names = list(panel.completions[0].rewards)
    lines = [
        f"Clip **{escaped(panel.id)}**, target **{panel.target}**. {_legend([panel])}",
        "",
        f"| completion | {' | '.join(map(escaped, names))} | advantage |",
        f"|---|{'---|' * (len(names) + 1)}",
    ]
    for completion in panel.completions:
        cells = [marked_rationale(completion), *(f"{value:.2f}" for value in completion.rewards.values())]
        lines.append(f"| {' | '.join(cells)} | {completion.advantage:+.2f} |")
    return "\n".join(lines)


def clips_markdown(panels: Sequence[Panel]) -> str:
    """The completions of evaluated clips: a table with each clip's target and the judge's verdict."""
    lines = [_legend(panels), "", "| clip | target | judged | completion |", "|---|---|---|---|"]
    for panel in panels:
        for completion in panel.completions:
            verdict = "–" if panel.judge is None else completion.verdict or "invalid"
            target = panel.target or "–"
            lines.append(f"| {escaped(panel.id)} | {target} | {verdict} | {marked_rationale(completion)} |")
    return "\n".join(lines)
