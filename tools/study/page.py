"""The page of a study: one HTML file that loads and runs nothing."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.files.printable import whole_characters
from datamodules.files.writing import write_text
from tools.study.tables import StudyTable

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0 0 2rem; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th, td { vertical-align: top; }
th:first-child { text-align: left; }
img { max-width: 100%; background: #fff; }
pre { overflow-x: auto; padding: .7rem; background: #8881; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def write_page(
    file: Path,
    title: str,
    notes: Sequence[str],
    tables: Sequence[StudyTable],
    pictures: Mapping[str, Path],
    commands: Sequence[str],
) -> None:
    """Write the page whole or not at all.

    Args:
        file: to write.
        title: of the study.
        notes: paragraphs before the tables.
        tables: in order.
        pictures: heading → PNG that becomes part of the page.
        commands: lines of the commands that were run.
    """
    body = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{html.escape(note)}</p>" for note in notes)]
    body += [table.html() for table in tables]
    for heading, picture in pictures.items():
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        body.append(
            f'<h2>{html.escape(heading)}</h2><img alt="{html.escape(heading)}" src="data:image/png;base64,{data}">'
        )
    body.append(f"<details><summary>Commands</summary><pre>{html.escape(chr(10).join(commands))}</pre></details>")
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    write_text(
        file,
        [
            whole_characters(f'<!doctype html><html lang="en"><head>{head}</head><body>'),
            *map(whole_characters, body),
            "</body></html>",
        ],
    )
