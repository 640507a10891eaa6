"""What is known of a completion while it is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.batch import Clip
from datamodules.emotions import get_taxonomy
from datamodules.rationale import split_sentences
from lightning_modules.backbones.interface import Sampling
from lightning_modules.emotion_verifier import EmotionVerifier
from tests.conftest import RATIONALE
from tests.tools.app.conftest import RESPONSE
from tools.app import explainer as module
from tools.app.explainer import Explainer
from tools.app.models import open_backbone

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def explainer(learnt: Path, tiny_models: Path) -> Explainer:
    verifier = EmotionVerifier(str(tiny_models / "verifier"))
    policy = open_backbone(str(learnt), None, None)
    return Explainer(policy, get_taxonomy("dfew"), verifier, Sampling(160, temperature=0.0))


def test_each_token_is_shown_and_each_sentence_read_once_it_is_whole(
    explainer: Explainer, make_clip: Callable[..., Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN", 0.0)
    states: list[dict[str, Any]] = []
    explainer.explain(make_clip(0), "full", states.append)
    assert [RESPONSE.startswith(state["completion"].rstrip("\ufffd")) for state in states] == [True] * len(states)
    counts = [len(state["sentences"]) for state in states]
    assert counts == sorted(counts) and set(counts) == {0, 1, 2, 3}
    assert {state["writing"] for state in states} > {""}, "a sentence is shown before it is whole"
    assert [state["done"] for state in states] == [False] * (len(states) - 1) + [True]
    last = states[-1]
    assert [sentence["text"] for sentence in last["sentences"]] == list(split_sentences(RATIONALE))
    assert all(sentence["emotions"] for sentence in last["sentences"])
    assert (last["answer"], last["prediction"], last["cut"]) == ("angry", "anger", False)
    assert last["judged"] in explainer.taxonomy.classes


def test_what_a_watcher_raises_ends_the_completion(
    explainer: Explainer, make_clip: Callable[..., Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN", 0.0)
    states: list[dict[str, Any]] = []

    def leave(state: dict[str, Any]) -> None:
        states.append(state)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        explainer.explain(make_clip(0), "full", leave)
    assert len(states) == 1


@pytest.mark.parametrize(
    ("text", "done", "sentences", "writing", "answer"),
    [
        ("<thi", False, [], "", None),
        ("<think>He", False, [], "He", None),
        ("<think>He shouts. She", False, ["He shouts."], "She", None),
        ("<think>He shouts. She runs.</th", False, ["He shouts."], "She runs.", None),
        ("<think>He shouts. She runs.</think>\n<ans", False, ["He shouts.", "She runs."], "", None),
        ("<think>He shouts.</think><answer>angry</answer>", True, ["He shouts."], "", "angry"),
        ("<think>He shouts. She", True, ["He shouts.", "She"], "", None),  # cut: neither rationale nor answer
        ("angry <b>", False, [], "angry <b>", None),
        ("angry", True, [], "", None),
    ],
)
def test_what_is_read_so_far(
    explainer: Explainer, text: str, done: bool, sentences: list[str], writing: str, answer: str | None
) -> None:
    state = explainer._state(text, {}, done)
    assert [sentence["text"] for sentence in state["sentences"]] == sentences
    assert (state["writing"], state["answer"]) == (writing, answer)
    assert (state["judged"] is None) == ("</think>" not in text)


def test_without_a_verifier_sentences_stay_unread(explainer: Explainer) -> None:
    blind = Explainer(explainer.backbone, explainer.taxonomy, None, explainer.sampling)
    state = blind._state("<think>He shouts.</think><answer>angry</answer>", {}, True)
    assert state["sentences"] == [{"text": "He shouts.", "emotions": None}] and state["judged"] is None
