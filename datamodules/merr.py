"""MERR, machine-written explanations of MER2023's unlabelled clips: cold-start data.

A JSON object, sample → its annotation. `pseu_emotion` is a pseudo-label, computed from facial action units by its
authors; the explanation is `smp_reason_caption` (fine, 4,487 clips, written by a language model) or `caption` (coarse,
28,618 clips, the descriptions of each modality one after the other).
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from datamodules.clip_source import Split
from datamodules.corpus import Corpus
from datamodules.files.json_files import read_json, shown
from datamodules.listed import ListedCorpus, Row
from datamodules.manifest_columns import Columns
from datamodules.published import Published

_EXPLANATIONS = {"fine": "smp_reason_caption", "coarse": "caption"}
_NUM_CLIPS = {"fine": 4487, "coarse": 28618}
_FINE_CLIPS = {
    "neutral": 1352, "sad": 1091, "angry": 874, "happy": 475, "worried": 310, "surprise": 213, "fear": 86, "doubt": 45,
    "contempt": 41,
}  # fmt: skip
"""Clips of each of MERR's labels in the fine JSON."""
_NOUNS = {"sad": "sadness", "angry": "anger", "happy": "happiness", "worried": "anxiety"}


class MERR(ListedCorpus):
    """Clips with a pseudo-label and an explanation, to train on.

    Labels that have no class in the taxonomy are left out and counted: `doubt`, and under `dfew` also `worried`
    (anxiety) and `contempt`.

    Args:
        root: directory of the JSON, of MER2023's `test3/`, or both.
        grain: which explanations: `fine` or `coarse`.
        annotations: the JSON, absolute or relative to the working directory or to `root`; null takes
            `MERR_<grain>_grained.json`, in `root` or its `MERR/`.
        taxonomy: the classes that labels may name.
        kwargs: see `ClipSource`.

    Raises:
        ValueError: no such grain.
    """

    label_files = ("MERR_{corpus.grain}_grained.json", "MERR/MERR_{corpus.grain}_grained.json")
    clip_directories = ("test3", ".")
    fields = ("media", "label", "split", "rationale")
    key, media_key = Corpus.key, Corpus.media_key
    aliases: ClassVar[Mapping[str, str]] = {word: _NOUNS.get(word, word) for word in _FINE_CLIPS}

    def __init__(
        self,
        root: str,
        grain: Literal["fine", "coarse"] = "fine",
        annotations: str | None = None,
        taxonomy: str = "mafw",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, taxonomy, **kwargs)
        if grain not in _EXPLANATIONS:
            raise ValueError(f"MERR's grains are {', '.join(_EXPLANATIONS)}; got {grain!r}.")
        self.grain = grain
        self.annotations = annotations

    def published(self, split: Split) -> Published:
        """The number of clips, those that are left out among them, and of the fine JSON that of each class."""
        classes = self.published_words(_FINE_CLIPS).classes if self.grain == "fine" else {}
        return Published(_NUM_CLIPS[self.grain], classes, exact=True)

    def listed(self, columns: Columns) -> Iterator[Row]:
        """Entries of the JSON, each with its pseudo-label and the explanation of the grain, to train on."""
        path = self.named_file(self.annotations) if self.annotations else self.label_file("train")
        self.listing = path
        entries = read_json(path)
        if not isinstance(entries, dict):
            raise ValueError(f"{path}: got {shown(entries)}. Expected a JSON object, sample name → annotation.")
        field = _EXPLANATIONS[self.grain]
        for name, entry in entries.items():
            source = f"{path}:{name}"
            label, explanation = (
                (entry.get("pseu_emotion"), entry.get(field)) if isinstance(entry, dict) else (None, None)
            )
            if not all(isinstance(value, str) and value.strip() for value in (label, explanation)):
                self.refuse(
                    f"{source}: expected an object with texts `pseu_emotion` and `{field}` (grain {self.grain}), got "
                    f"{shown(entry, 120)}."
                )
                continue
            yield {"media": self.key(name), "label": label, "rationale": explanation, "split": "train"}, source
