"""What the tests of the judge behind an endpoint share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_modules.judges import EndpointJudge
from tests.chat_server import KEY


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def make_judge(tmp_path: Path) -> Callable[..., EndpointJudge]:
    def make(url: str, **options) -> EndpointJudge:
        values = {
            "model": "m",
            "backoff": 0.001,
            "retries": 2,
            "timeout": 5.0,
            "cache": str(tmp_path / "replies.jsonl"),
        }
        return EndpointJudge(url, **{**values, **options})

    return make
