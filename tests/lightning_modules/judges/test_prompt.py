"""What language models are asked, and how their replies are read."""

from collections.abc import Iterator, Sequence

import pytest

from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY, get_taxonomy
from datamodules.synthetic.grammar import OracleJudge
from lightning_modules.judges.prompt import PromptedJudge, Verdict, each_verdict, follow, judge_prompt, read_reply

pytestmark = pytest.mark.unit


class Parrot(PromptedJudge):
    """Replies with the last word of the rationale, last question first; has no reply to `silence`."""

    def __init__(self) -> None:
        super().__init__("parrot")
        self.prompts: list[str] = []

    def ask(self, prompts: Sequence[str]) -> Iterator[tuple[int, str | None]]:
        self.prompts += prompts
        for i in reversed(range(len(prompts))):
            word = prompts[i].split("\nReason: ")[1].split("\nAnswer")[0].split()[-1]
            yield i, None if word == "silence" else word


def test_the_papers_prompt():
    assert judge_prompt("He {smiles}.", DFEW_TAXONOMY) == (
        "Read the reasoning content and respond with the appropriate emotion in happiness, sadness, neutral, anger, "
        "surprise, disgust, fear. Reply with only the emotion word.\nReason: He {smiles}.\nAnswer Emotion:"
    )


def test_the_released_codes_prompt() -> None:
    assert "emotion in happy, sad, neutral, angry, surprise, disgust, fear. " in judge_prompt(
        "He.", DFEW_TAXONOMY, "released"
    )
    assert judge_prompt("He.", MAFW_TAXONOMY, "released") == judge_prompt("He.", MAFW_TAXONOMY)
    judge = Parrot()
    follow(judge, "released")
    assert judge.judge(["so happy"], DFEW_TAXONOMY) == ["happiness"], "its names are aliases here"
    assert judge.prompts == [judge_prompt("so happy", DFEW_TAXONOMY, "released")]


@pytest.mark.parametrize(
    ("reply", "emotion"),
    [
        ("happiness", "happiness"),
        (" Happy\n", "happiness"),
        ("**Sad**.", "sadness"),
        ('"Angry!"', "anger"),
        ("“fear”", "fear"),
        ("`neutral`", "neutral"),
        ("", None),
        (None, None),
        (".", None),
        ("surprised", None),
        ("unhappy", None),
        ("not anger", None),
        ("anger, fear", None),
        ("anger?", None),
        ("The emotion is anger", None),
        ("Anger\n\nThe man shouts.", None),
        ("contempt", None),
    ],
)
def test_reading_a_reply(reply, emotion):
    assert read_reply(reply, DFEW_TAXONOMY) == emotion


def test_the_taxonomy_decides_what_a_class_is():
    assert read_reply("contemptuous", MAFW_TAXONOMY) == "contempt"


def test_stream_keeps_positions_asks_once_and_never_about_nothing():
    judge = Parrot()
    rationales = ["so sad", "", "so happy", "so sad", "in silence", " \n", "what now"]
    verdicts = dict(judge.stream(rationales, DFEW_TAXONOMY))
    assert verdicts == {
        0: Verdict("sadness", "sad"),
        1: Verdict(None),
        2: Verdict("happiness", "happy"),
        3: Verdict("sadness", "sad"),
        4: Verdict(None),
        5: Verdict(None),
        6: Verdict(None, "now"),
    }
    assert judge.prompts == [judge_prompt(rationales[i], DFEW_TAXONOMY) for i in (0, 2, 4, 6)]
    assert judge.report() == "parrot: 7 rationales judged, 4 invalid, such as the reply 'now'."


def test_judge_is_the_stream_in_order():
    assert Parrot().judge(["so sad", "", "so happy"], DFEW_TAXONOMY) == ["sadness", None, "happiness"]


def test_any_judge_gives_each_verdict():
    rationales = ["Her mouth drops open.", "nothing"] * 40  # more than are read together
    verdicts = dict(each_verdict(OracleJudge(), rationales, DFEW_TAXONOMY))
    assert list(verdicts) == list(range(80))
    assert [verdicts[i].emotion for i in range(80)] == OracleJudge().judge(rationales, DFEW_TAXONOMY)
    assert dict(each_verdict(Parrot(), ["so sad"], DFEW_TAXONOMY)) == {0: Verdict("sadness", "sad")}


def test_a_taxonomys_names_for_the_judge(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("classes: {exc: {aliases: [excited], judge: excited}, fru: {}}")
    assert "emotion in excited, fru. Reply" in judge_prompt("He runs.", get_taxonomy(str(own)))
    assert read_reply("Excited.", get_taxonomy(str(own))) == "exc"
    assert read_reply("surprised", DFEW_TAXONOMY) is None
    assert read_reply("surprised", get_taxonomy("dfew", "extended")) == "surprise"
