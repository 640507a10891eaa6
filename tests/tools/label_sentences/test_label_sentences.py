"""Teacher labels through the command line, from rationales to stage 2's batches."""

import json
from pathlib import Path

import pytest

import main
from datamodules.labelled_sentences import read_sentences
from datamodules.rationale_text import RationaleText
from lightning_modules.emotion_verifier import EmotionVerifier
from lightning_modules.judges import VerifierJudge
from lightning_modules.judges.prompt import PromptedJudge
from tests.chat_server import Answer, ChatServer
from tools.label_sentences.label_sentences import label_sentences, read_rationales

pytestmark = pytest.mark.e2e

VERIFIER = str(Path(__file__).parents[2] / "golden" / "tiny_verifier")
ROWS = [
    {"id": "a", "sentences": [{"text": "He smiles."}, {"text": "She cries."}], "completion": "ignored"},
    {"id": "b", "completion": "<think>He smiles. The door slams!</think><answer>joy</answer>"},
    {"id": "c", "rationale": 'She says "Go. Now." and turns away. He smiles.'},
    {"id": "d", "completion": "<answer>joy</answer>"},
]
DISTINCT = ["He smiles.", "She cries.", "The door slams!", 'She says "Go. Now." and turns away.']


@pytest.fixture
def rationales(tmp_path) -> Path:
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return path


class Scripted(PromptedJudge):
    """Answers from a table, by sentence; an exception in the table is raised."""

    def __init__(self, replies: dict[str, object]) -> None:
        super().__init__("scripted")
        self.replies = replies
        self.asked: list[str] = []

    def ask(self, prompts):
        for i, prompt in enumerate(prompts):
            sentence = next(sentence for sentence in DISTINCT if f"Sentence: {sentence}\n" in prompt)
            self.asked.append(sentence)
            if isinstance(self.replies[sentence], Exception):
                raise self.replies[sentence]
            yield i, self.replies[sentence]


def test_a_verifier_labels_what_the_reward_reads(rationales, tmp_path, capsys):
    output = tmp_path / "sentences.jsonl"
    second = tmp_path / "second.jsonl"
    second.write_text('{"id": "a", "rationale": "She cries."}\n')
    main.run(
        ["label_sentences", "--predictions", str(rationales), str(second), "--output", str(output)]
        + ["--labeller", "VerifierJudge", "--labeller.verifier", VERIFIER, "--max_per_label", "1"]
    )
    sentences = read_sentences(output)
    assert [sentence.text for sentence in sentences] == DISTINCT
    for sentence, reading in zip(sentences, EmotionVerifier(VERIFIER).read(DISTINCT), strict=True):
        assert set(sentence.emotions) == set(reading.emotions)
    shown = " ".join(capsys.readouterr().out.split())
    assert "5 rationales, 7 sentences, 4 distinct: 0 labelled before, 4 now, 0 failed." in shown
    assert "labels never occur" in shown and "admiration" in shown
    chosen = read_sentences(tmp_path / "sentences.balanced.jsonl")
    labels = [label for sentence in chosen for label in sentence.emotions]
    assert chosen and len(labels) == len(set(labels))

    data = RationaleText(str(output), validation_fraction=0.25)
    data.setup("fit")
    assert (len(data.sentences["train"]), len(data.sentences["validation"])) == (3, 1)


def test_what_is_done_is_not_asked_again(rationales, tmp_path, capsys):
    output = str(tmp_path / "sentences.jsonl")
    replies = dict(zip(DISTINCT, ["joy", "sadness, grief", RuntimeError("the server is gone"), "anger"], strict=True))
    with pytest.raises(RuntimeError, match="gone"):
        label_sentences(Scripted(replies), output, [str(rationales)])
    assert [sentence.text for sentence in read_sentences(output)] == DISTINCT[:2]
    with Path(output).open("a") as file:
        file.write('{"text": "The door sl')  # killed while writing

    second = Scripted(replies | {DISTINCT[2]: "happiness"})
    result = label_sentences(second, output, [str(rationales)])
    assert second.asked == DISTINCT[2:]
    assert (result["already_labelled"], result["labelled"], result["failed"]) == (2, 1, 1)
    assert "such as 'happiness'" in " ".join(capsys.readouterr().out.split())

    third = Scripted(replies | {DISTINCT[2]: "surprise"})
    result = label_sentences(third, output, [str(rationales)])
    assert third.asked == [DISTINCT[2]]
    assert result["failed"] == 0
    assert {sentence.text: sentence.emotions for sentence in read_sentences(output)} == {
        DISTINCT[0]: ("joy",),
        DISTINCT[1]: ("grief", "sadness"),
        DISTINCT[2]: ("surprise",),
        DISTINCT[3]: ("anger",),
    }
    assert result["per_label"]["joy"] == 1 and result["per_label"]["neutral"] == 0
    assert label_sentences(Scripted({}), output, [str(rationales)])["labelled"] == 0


def test_an_endpoint_labels(rationales, tmp_path, capsys):
    def answer(number, request):
        return Answer("happy") if "She cries." in request.prompt else Answer("Joy, Amusement")

    with ChatServer(answer) as server:
        main.run(
            ["label_sentences", "--predictions", str(rationales), "--output", str(tmp_path / "s.jsonl")]
            + ["--labeller", "EndpointJudge", f"--labeller.base_url={server.url}", "--labeller.model=m"]
            + [f"--labeller.cache={tmp_path}/replies.jsonl"]
        )
    assert len(server.requests) == 4
    labelled = {sentence.text: sentence.emotions for sentence in read_sentences(tmp_path / "s.jsonl")}
    assert labelled == dict.fromkeys([DISTINCT[0], *DISTINCT[2:]], ("amusement", "joy"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 failed" in shown and "4 replies asked for" in shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a", "completion": "<think>He smi', r"p\.jsonl:2: not valid JSON"),
        ('{"id": "a"}', r"p\.jsonl:2: expected sentences"),
        ('{"id": "a", "sentences": ["He smiles."]}', r"p\.jsonl:2: expected sentences"),
        ('{"id": "a", "completion": 1}', r"p\.jsonl:2: expected sentences"),
        ('{"id": "z", "completion": "x"}', r"p\.jsonl:2: id 'z' is already"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    (tmp_path / "p.jsonl").write_text('{"id": "z", "rationale": "He smiles."}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_rationales(tmp_path / "p.jsonl")


def test_half_a_character_becomes_writable(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "a", "rationale": "He smiles \\ud83d."}\n')
    (sentences,) = read_rationales(tmp_path / "p.jsonl")
    assert sentences == ("He smiles \ufffd.",)


def test_nothing_to_label(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "a", "completion": "no rationale"}\n')
    judge = VerifierJudge(VERIFIER)
    for files in ([str(tmp_path / "p.jsonl")], None):
        with pytest.raises(ValueError, match="There is no sentence to label"):
            label_sentences(judge, str(tmp_path / "s.jsonl"), files)
    assert not (tmp_path / "s.jsonl").exists()


def test_a_corpus_has_rationales(tmp_path):
    main.run(
        ["synthesize", "--layout", "emer", "--output", str(tmp_path / "emer"), "--num_clips", "10"]
        + ["--num_workers", "1"]
    )
    main.run(
        ["label_sentences", "--data", "EMER", f"--data.root={tmp_path}/emer", "--output", str(tmp_path / "s.jsonl")]
        + ["--labeller", "VerifierJudge", "--labeller.verifier", VERIFIER]
    )
    text = (tmp_path / "emer" / "EMER_cold_start.json").read_text()
    sentences = read_sentences(tmp_path / "s.jsonl")
    assert len(sentences) >= 8
    assert all(json.dumps(sentence.text)[1:-1] in text for sentence in sentences)


def test_max_per_label_is_checked_first(tmp_path):
    with pytest.raises(ValueError, match="max_per_label must be at least 1; got 0"):
        label_sentences(Scripted({}), str(tmp_path / "s.jsonl"), max_per_label=0)
