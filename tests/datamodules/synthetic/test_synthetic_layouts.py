"""Label files, byte for byte as the real corpora's are distributed."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from openpyxl import load_workbook

from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY
from datamodules.synthetic.grammar import rationale_emotion
from datamodules.synthetic.layouts import media_path, split_folds

pytestmark = pytest.mark.unit

Corpus = Callable[[str], Path]
NUM_CLIPS = 66


def _truth(root: Path) -> dict[str, dict]:
    content = json.loads((root / "synthetic.json").read_text(encoding="utf-8"))
    return {clip["media"]: clip for clip in content["clips"]}


def _cells(path: Path) -> list[tuple]:
    """The rows of a workbook."""
    return list(load_workbook(path)["Sheet1"].values)


def test_folds_partition_each_class_and_are_contiguous_in_it():
    labels = ["a"] * 11 + ["b"] * 5 + ["c"]
    folds = split_folds(labels)
    assert folds[:11] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5]
    assert folds[11:16] == [1, 2, 3, 4, 5]
    assert folds[16] == 5


def test_media_paths():
    assert [media_path("dfew", i) for i in (0, 9)] == ["Clip/original/1.mp4", "Clip/original/10.mp4"]
    paths = [media_path("mafw", i) for i in range(30)]
    assert paths[0] == "data/clips/00019.mp4"
    ids = [int(Path(path).stem) for path in paths]
    assert ids == sorted(set(ids)) and ids[-1] - ids[0] > 29  # gaps
    assert media_path("emer", 3) == "videos/sample_00000003.mp4"


def test_dfew_splits(make_corpus: Corpus):
    root = make_corpus("dfew")
    truth = _truth(root)
    assert len(list((root / "Clip/original").iterdir())) == NUM_CLIPS
    tested: list[str] = []
    for fold in range(1, 6):
        rows = {}
        for split in ("train", "test"):
            content = (root / f"EmoLabel_DataSplit/{split}(single-labeled)/set_{fold}.csv").read_bytes()
            assert content.startswith(b"video_name,label\n") and b"\r" not in content
            lines = content.decode().splitlines()[1:]
            rows[split] = [line.split(",") for line in lines]
            for name, code in rows[split]:
                assert truth[f"Clip/original/{name}.mp4"]["label"] == DFEW_TAXONOMY.classes[int(code) - 1]
        names = [name for split in rows.values() for name, _ in split]
        assert len(names) == len(set(names)) == NUM_CLIPS  # train and test of a fold share no clip
        assert {code for _, code in rows["test"]} == {str(code) for code in range(1, 8)}
        tested += [name for name, _ in rows["test"]]
    assert sorted(tested, key=int) == [str(i) for i in range(1, NUM_CLIPS + 1)]


def test_dfew_annotation(make_corpus: Corpus):
    header, *rows = _cells(make_corpus("dfew") / "Annotation/annotation.xlsx")
    votes = ("1happy", "2sad", "3neutral", "4angry", "5surprise", "6disgust", "7fear")
    assert header == (*votes, "order", "label")
    assert [row[7] for row in rows] == list(range(1, NUM_CLIPS + 1))
    for *given, _, label in rows:
        assert sum(given) == 10 and max(given) > 6 and given.index(max(given)) + 1 == label


@pytest.mark.parametrize("kind", ["single", "compound"])
def test_mafw_splits(make_corpus: Corpus, kind: str):
    root = make_corpus("mafw")
    truth = _truth(root)
    tested: list[str] = []
    for fold in range(1, 6):
        names = []
        for split in ("train", "test"):
            folder = root / "Train & Test Set" / kind
            plain = (folder / "no_caption" / f"set_{fold}" / f"{split}.txt").read_bytes()
            captioned = (folder / "with_caption" / f"set_{fold}" / f"{split}.txt").read_bytes()
            for content in (plain, captioned):
                assert content.endswith(b"\r\n") and content.count(b"\n") == content.count(b"\r\n")
            rows = [line.split(" ") for line in plain.decode("utf-8").split("\r\n")[:-1]]
            for name, label in rows:
                clip = truth[f"data/clips/{name}"]
                parts = label.split("_")
                assert clip["label"] in parts if kind == "compound" else clip["label"] == label
                assert [MAFW_TAXONOMY.index(part) for part in parts] == sorted(
                    MAFW_TAXONOMY.index(part) for part in parts
                )
            with pytest.raises(UnicodeDecodeError):
                captioned.decode("utf-8")
            cells = [line.split("\t") for line in captioned.decode("gb18030").split("\r\n")[:-1]]
            assert [cell[:2] for cell in cells] == [row for row in rows if row[1] != "neutral"]
            assert all(chinese.endswith("。") and english.endswith(".") for _, _, chinese, english in cells)
            names += [name for name, _ in rows]
            tested += [name for name, _ in rows] if split == "test" else []
        assert len(names) == len(set(names)) == NUM_CLIPS
    assert sorted(tested) == sorted(Path(media).name for media in truth)


def test_mafw_workbooks(make_corpus: Corpus):
    root = make_corpus("mafw")
    truth = _truth(root)
    labels = root / "Labels"
    annotation, single, multi = (_cells(labels / f"{name}.xlsx") for name in ("annotation", "single-set", "multi-set"))
    assert annotation[0] == ("clip", "invalid", *MAFW_TAXONOMY.classes) and len(annotation) == 1 + NUM_CLIPS
    assert single[0] == ("clip", *MAFW_TAXONOMY.classes, "single_label") and len(single[0]) == 13
    for name, *shares, code in single[1:]:
        assert truth[f"data/clips/{name}"]["label"] == MAFW_TAXONOMY.classes[code - 1]
        assert shares.index(max(shares)) + 1 == code and sum(shares) == pytest.approx(1)
    assert multi[0] == ("clip", *MAFW_TAXONOMY.classes, "multi_label") and len(multi) > 1
    for *_, codes in multi[1:]:
        assert len(codes.split(",")) == 2 and "5" not in codes.split(",")
    text = _cells(labels / "descriptive_text.xlsx")
    assert len(text) == sum(clip["label"] != "neutral" for clip in truth.values())
    assert all(len(row) == 3 and row[0].endswith(".mp4") for row in text)


def test_emer_conversations(make_corpus: Corpus):
    root = make_corpus("emer")
    truth = _truth(root)
    rows = json.loads((root / "EMER_cold_start.json").read_text(encoding="utf-8"))
    assert len(rows) == NUM_CLIPS
    answers = set()
    for row in rows:
        assert set(row) == {"video", "conversations"} and (root / row["video"]).is_file()
        human, gpt = row["conversations"]
        assert human == {
            "from": "human",
            "value": "<video>\n<audio>\nAs an emotional recognition expert; throughout the video, which emotion "
            "conveyed by the characters is the most obvious to you?  Output the thinking process in <think> </think> "
            "and final emotion in <answer> </answer> tags.",
        }
        clip = truth[row["video"]]
        rationale, answer = gpt["value"].removeprefix("<think>").split("</think>\n<answer>")
        answer = answer.removesuffix("</answer>")
        assert gpt["from"] == "gpt" and rationale == clip["rationale"]
        assert DFEW_TAXONOMY.canonical(answer) == clip["label"]
        answers.add(answer)
    assert answers == {"happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"}
    assert {"happy", "sad", "angry"} <= set(MAFW_TAXONOMY.aliases)


def test_truth_states_the_measured_rates(make_corpus: Corpus):
    content = json.loads((make_corpus("emer") / "synthetic.json").read_text(encoding="utf-8"))
    clips, measured = content["clips"], content["measured"]
    wrong = [clip for clip in clips if rationale_emotion(clip["rationale"]) != clip["label"]]
    assert measured["contradicting_rationales"] == pytest.approx(len(wrong) / NUM_CLIPS, abs=1e-4)
    assert all(clip["view"] != "mixed" for clip in wrong)
    assert content["parameters"]["seed"] == 3 and content["parameters"]["taxonomy"] == "dfew"
    counts = Counter(clip["label"] for clip in clips)
    assert max(counts.values()) - min(counts.values()) <= 1
