"""Who speaks while data are read."""

import logging
import warnings

import pytest
from lightning_utilities.core.rank_zero import rank_zero_only

from datamodules.notices import inform, warn

pytestmark = pytest.mark.unit


def test_the_first_process_alone_speaks(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
        inform("of another process")
        warn("of another process")
        monkeypatch.delattr(rank_zero_only, "rank")  # as in a tool, which imports no Lightning
        inform("of a tool")
        with pytest.raises(UserWarning, match="of a tool"):
            warn("of a tool")
    assert caplog.messages == ["of a tool"]
