r"""EMER-style explanations for stage 1, as R1-Omni's conversation JSON (spec "datasets" §5).

A list of `{"video": path, "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}]}`; the gpt value is
`<think>rationale</think>\n<answer>label</answer>`. The question in the file is not used: the instruction is the data
module's, so that all stages ask with one prompt (the published code has three). How many rows ask another is logged.
"""

import json
import re
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from datamodules.clip_datamodule import ClipDataModule, ClipRecord, Split
from datamodules.emotions import Taxonomy, get_taxonomy

MEDIA_PREFIX = "<video>\n<audio>\n"
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class EMER(ClipDataModule):
    """Clips with the explanation to learn.

    Args:
        root: directory that the video paths in the JSON are relative to (also tried: its `videos/`, and the JSON's own
            directory; absolute paths are taken as they are).
        annotations: the training JSON, absolute or relative to the working directory or to `root`; null takes the one
            JSON file in `root` that holds conversations.
        test_file: a second JSON of the same form for `test`, null for none.
        taxonomy: the classes that answers may name, `dfew` or `mafw`.
        kwargs: see `ClipDataModule`.
    """

    def __init__(
        self,
        root: str,
        annotations: str | None = None,
        test_file: str | None = None,
        taxonomy: str = "dfew",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.annotations = annotations
        self.test_file = test_file
        self._taxonomy = get_taxonomy(taxonomy)

    @property
    def taxonomy(self) -> Taxonomy:
        """The classes that answers may name."""
        return self._taxonomy

    @property
    def splits(self) -> tuple[Split, ...]:
        """EMER has no test split of its own: `test` and `predict` need a `test_file`."""
        return ("train",) if self.test_file is None else ("train", "test", "predict")

    def records(self, split: Split) -> list[ClipRecord]:
        """Entries of a JSON; `predict` is `test_file`. See `ClipDataModule.records`."""
        if split == "train":
            path = self._find(self.annotations) if self.annotations else self._discover()
        else:
            assert self.test_file is not None  # `splits`
            path = self._find(self.test_file)
        entries = _load_json(path)
        if not isinstance(entries, list):
            raise ValueError(f"{path}: got a JSON {type(entries).__name__}. Expected a list of conversations.")
        if not entries:
            raise ValueError(f"{path} lists no clips.")
        rows, other_questions = [], 0
        for position, entry in enumerate(entries, start=1):
            source = f"{path}:{position}"
            video, question, response = _read_entry(entry, source)
            answer = _ANSWER.search(response)
            if answer is None:
                raise ValueError(f"{source}: the gpt value has no <answer>...</answer>: {response[:80]!r}.")
            target = self.taxonomy.target(answer.group(1), source)
            other_questions += question.split() != self.instruction.split()
            clip_id = str(Path(video).with_suffix(""))
            rows.append(ClipRecord(clip_id, self._find_video(video, path), target, response, source))
        if other_questions:
            rank_zero_info(f"{path}: {other_questions} of {len(rows)} rows ask another question than `instruction`.")
        return rows

    def _find(self, name: str) -> Path:
        candidates = list(dict.fromkeys((Path(name), self.root / name)))
        for path in candidates:
            if path.is_file():
                return path
        raise FileNotFoundError(f"No such conversation JSON. Looked for: {', '.join(map(str, candidates))}.")

    def _discover(self) -> Path:
        """The one JSON in `root` that holds conversations and is not the test file."""
        candidates = sorted(self.root.glob("*.json"))
        if self.test_file is not None:
            test_path = self._find(self.test_file).resolve()
            candidates = [path for path in candidates if path.resolve() != test_path]
        found = [path for path in candidates if _holds_conversations(_load_json(path))]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"Several JSON files with conversations: {', '.join(map(str, found))}. Name one as `annotations`."
            )
        looked_at = ", ".join(map(str, candidates)) or "no *.json there"
        raise FileNotFoundError(f"No conversation JSON in {self.root} (looked at: {looked_at}). Set `annotations`.")

    def _find_video(self, video: str, annotations: Path) -> str | None:
        for directory in (self.root, self.root / "videos", annotations.parent):
            path = directory / video  # an absolute `video` replaces the directory
            if path.is_file():
                return str(path)
        return None


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not valid JSON: {error}. (R1-Omni's README example ends its list with a comma; remove such.)"
        ) from error


def _holds_conversations(content: Any) -> bool:
    return (
        isinstance(content, list)
        and len(content) > 0
        and all(isinstance(entry, dict) and "conversations" in entry for entry in content)
    )


def _read_entry(entry: Any, source: str) -> tuple[str, str, str]:
    """Video path, question without its media prefix, and response of an entry.

    Raises:
        ValueError: the entry has another form.
    """
    video = entry.get("video") if isinstance(entry, dict) else None
    turns = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(video, str) or not video or not isinstance(turns, list):
        raise ValueError(f"{source}: expected an object with `video` (a path) and `conversations`, got {entry!r:.120}.")
    speakers = [turn.get("from") if isinstance(turn, dict) else None for turn in turns]
    if speakers != ["human", "gpt"] or not all(isinstance(turn.get("value"), str) for turn in turns):
        raise ValueError(
            f"{source}: expected one human and one gpt turn, each with a text `value`; got turns from {speakers}."
        )
    return video, turns[0]["value"].removeprefix(MEDIA_PREFIX), turns[1]["value"]
