"""Label files of the generated corpora, byte for byte in the layouts that the real ones are distributed in.

The layouts are those of docs/data.md. Clips are numbered by their position in the corpus; `media_path` says where each
layout keeps a clip.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openpyxl import Workbook

from datamodules.clip_source import INSTRUCTION
from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY, Taxonomy
from datamodules.synthetic.grammar import View
from datamodules.synthetic.performance import Performance

ClipLayout = Literal["dfew", "mafw", "emer"]

NUM_FOLDS = 5
EMER_FILE = "EMER_cold_start.json"
_ADJECTIVES = {noun: adjective for adjective, noun in MAFW_TAXONOMY.aliases.items()}
_CHINESE_PERSONS = {"man": "一个男人", "woman": "一个女人"}
_CHINESE_FACES = {
    "anger": "紧锁眉头，瞪大眼睛",
    "disgust": "皱起鼻子，撇着嘴",
    "fear": "睁大眼睛，嘴唇发抖",
    "happiness": "嘴角上扬，露出笑容",
    "neutral": "面部放松，目光平静",
    "sadness": "眼里含泪，嘴角下垂",
    "surprise": "扬起眉毛，张大嘴巴",
    "contempt": "斜着嘴角，翻着白眼",
    "anxiety": "咬着嘴唇，目光不定",
    "helplessness": "抬头张望，轻轻摇头",
    "disappointment": "闭上眼睛，低下头",
}
_CHINESE_VOICES = {
    "anger": "大声喊叫",
    "disgust": "发出作呕的声音",
    "fear": "声音又高又颤",
    "happiness": "笑着说话",
    "neutral": "语调平稳",
    "sadness": "低声哭泣",
    "surprise": "倒吸一口气，语调上扬",
    "contempt": "冷冷地哼了一声",
    "anxiety": "说话急促，结结巴巴",
    "helplessness": "声音越来越弱",
    "disappointment": "长长地叹了一口气",
}


@dataclass(frozen=True)
class SyntheticClip:
    """A clip and what its label files say of it.

    Args:
        index: position in the corpus, from 0.
        performance: what it shows.
        view: the modalities that the annotator describes.
        rationale: the annotator's description, two to four sentences.
    """

    index: int
    performance: Performance
    view: View
    rationale: str

    @property
    def emotions(self) -> tuple[str, ...]:
        """The label and, where a modality disagrees, that modality's emotion."""
        shown = (self.performance.label, self.performance.face_emotion, self.performance.voice_emotion)
        return tuple(dict.fromkeys(shown))


def media_path(layout: ClipLayout, index: int) -> str:
    """Where a layout keeps the clip at a position, relative to the corpus' root.

    MAFW's ids have five digits, start at 00019 and have gaps; DFEW's are unpadded and start at 1.
    """
    if layout == "dfew":
        return f"Clip/original/{index + 1}.mp4"
    if layout == "mafw":
        return f"data/clips/{19 + index + index // 9:05d}.mp4"
    return f"videos/sample_{index:08d}.mp4"


def split_folds(labels: Sequence[str]) -> list[int]:
    """Test fold (1..5) of each position: every class is cut into five runs of consecutive positions, as in MAFW.

    The remainder of a class goes to the later folds, so a class with few clips still occurs in fold 5.
    """
    positions: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        positions.setdefault(label, []).append(position)
    folds = [0] * len(labels)
    for members in positions.values():
        for rank, position in enumerate(members):
            folds[position] = next(k for k in range(1, NUM_FOLDS + 1) if rank < len(members) * k // NUM_FOLDS)
    return folds


def _write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def _write_sheet(path: Path, rows: list[dict[str, object]], columns: list[str], header: bool = True) -> None:
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    for cells in ([columns] if header else []) + [[row[column] for column in columns] for row in rows]:
        sheet.append(cells)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)


def _votes(record: SyntheticClip, taxonomy: Taxonomy, num_annotators: int = 10) -> dict[str, int]:
    """Votes of the annotators per emotion: seven to ten for the label, the rest for what else the clip shows."""
    agreed = num_annotators if len(record.emotions) == 1 else 7 + record.index % 3
    votes = dict.fromkeys(taxonomy.classes, 0)
    votes[record.performance.label] = agreed
    votes[record.emotions[-1]] += num_annotators - agreed
    return votes


def write_dfew(root: Path, records: Sequence[SyntheticClip]) -> None:
    """`EmoLabel_DataSplit/{train,test}(single-labeled)/set_{1..5}.csv` and `Annotation/annotation.xlsx`.

    The CSV have the header `video_name,label` and codes from 1.
    """
    folds = split_folds([record.performance.label for record in records])
    for fold in range(1, NUM_FOLDS + 1):
        for split in ("train", "test"):
            rows = [
                f"{Path(media_path('dfew', record.index)).stem},{DFEW_TAXONOMY.index(record.performance.label) + 1}\n"
                for record, test_fold in zip(records, folds, strict=True)
                if (test_fold == fold) == (split == "test")
            ]
            path = root / "EmoLabel_DataSplit" / f"{split}(single-labeled)" / f"set_{fold}.csv"
            _write(path, "video_name,label\n" + "".join(rows))
    headers = [f"{code}{_ADJECTIVES.get(name, name)}" for code, name in enumerate(DFEW_TAXONOMY.classes, 1)]
    sheet: list[dict[str, object]] = [
        {
            **dict(zip(headers, _votes(record, DFEW_TAXONOMY).values(), strict=True)),
            "order": record.index + 1,
            "label": DFEW_TAXONOMY.index(record.performance.label) + 1,
        }
        for record in records
    ]
    _write_sheet(root / "Annotation" / "annotation.xlsx", sheet, [*headers, "order", "label"])


def _compound_label(record: SyntheticClip) -> str:
    """Ids of the emotions, ascending, joined by commas; a clip with a neutral modality has its label alone."""
    emotions = record.emotions if "neutral" not in record.emotions else (record.performance.label,)
    return ",".join(str(code) for code in sorted(MAFW_TAXONOMY.index(emotion) + 1 for emotion in emotions))


def _names(codes: str) -> str:
    return "_".join(MAFW_TAXONOMY.classes[int(code) - 1] for code in codes.split(","))


def _mafw_name(record: SyntheticClip) -> str:
    return Path(media_path("mafw", record.index)).name


def _write_mafw_splits(root: Path, kind: str, records: Sequence[SyntheticClip], labels: Sequence[str]) -> None:
    """The split files of one label set. The captioned files leave neutral clips out, as MAFW's do."""
    folds = split_folds(labels)
    for fold in range(1, NUM_FOLDS + 1):
        for split in ("train", "test"):
            chosen = [
                (record, label)
                for record, label, test_fold in zip(records, labels, folds, strict=True)
                if (test_fold == fold) == (split == "test")
            ]
            plain = "".join(f"{_mafw_name(record)} {label}\r\n" for record, label in chosen)
            captioned = "".join(
                f"{_mafw_name(record)}\t{label}\t{_chinese_caption(record.performance)}\t{record.rationale}\r\n"
                for record, label in chosen
                if label != "neutral"
            )
            folder = root / "Train & Test Set" / kind
            _write(folder / "no_caption" / f"set_{fold}" / f"{split}.txt", plain)
            _write(folder / "with_caption" / f"set_{fold}" / f"{split}.txt", captioned, "gb18030")


def write_mafw(root: Path, records: Sequence[SyntheticClip]) -> None:
    """`Labels/*.xlsx` and `Train & Test Set/{single,compound}/{no_caption,with_caption}/set_{1..5}/{train,test}.txt`.

    Every clip is in the single-label set. In the compound set, clips whose modalities disagree carry both emotions,
    unless one of them is neutral. The emotion columns of the workbooks hold shares of the annotators' votes.
    """
    compound = [_compound_label(record) for record in records]
    _write_mafw_splits(root, "single", records, [record.performance.label for record in records])
    _write_mafw_splits(root, "compound", records, [_names(codes) for codes in compound])

    def row(record: SyntheticClip) -> dict[str, object]:
        shares = {emotion: votes / 10 for emotion, votes in _votes(record, MAFW_TAXONOMY).items()}
        return {"clip": _mafw_name(record), "invalid": 0, **shares}

    rows = [row(record) for record in records]
    single = [
        {**cells, "single_label": MAFW_TAXONOMY.index(record.performance.label) + 1}
        for cells, record in zip(rows, records, strict=True)
    ]
    multi = [{**cells, "multi_label": codes} for cells, codes in zip(rows, compound, strict=True) if "," in codes]
    captions: list[dict[str, object]] = [
        {"clip": _mafw_name(record), "zh": _chinese_caption(record.performance), "en": record.rationale}
        for record in records
        if record.performance.label != "neutral"
    ]
    labels = root / "Labels"
    _write_sheet(labels / "annotation.xlsx", rows, ["clip", "invalid", *MAFW_TAXONOMY.classes])
    _write_sheet(labels / "single-set.xlsx", single, ["clip", *MAFW_TAXONOMY.classes, "single_label"])
    _write_sheet(labels / "multi-set.xlsx", multi, ["clip", *MAFW_TAXONOMY.classes, "multi_label"])
    _write_sheet(labels / "descriptive_text.xlsx", captions, ["clip", "zh", "en"], header=False)


def _conversation(record: SyntheticClip) -> dict[str, object]:
    label = record.performance.label
    answer = f"<think>{record.rationale}</think>\n<answer>{_ADJECTIVES.get(label, label)}</answer>"
    return {
        "video": media_path("emer", record.index),
        "conversations": [
            {"from": "human", "value": f"<video>\n<audio>\n{INSTRUCTION}"},
            {"from": "gpt", "value": answer},
        ],
    }


def write_emer(root: Path, records: Iterable[SyntheticClip]) -> None:
    """`EMER_cold_start.json`, R1-Omni's conversation list; `video` is relative to the file's folder.

    Answers use R1-Omni's adjectives where there is one ("angry"), else the class name.
    """
    conversations = [_conversation(record) for record in records]
    _write(root / EMER_FILE, json.dumps(conversations, indent=1, ensure_ascii=False) + "\n")


def _chinese_caption(performance: Performance) -> str:
    """What the clip shows and sounds like, as MAFW's captioned split files say it beside the English caption."""
    face, voice = _CHINESE_FACES[performance.face_emotion], _CHINESE_VOICES[performance.voice_emotion]
    return f"{_CHINESE_PERSONS[performance.identity.person]}{face}，{voice}。"
