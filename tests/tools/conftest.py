"""A browser for the pages that tools write."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from tests.tools.chromium import start_chromium


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the browser saves what a page exports."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def chromium(downloads: Path) -> Iterator[webdriver.Chrome]:
    """One for all pages."""
    automatic = {"profile.default_content_setting_values.automatic_downloads": 1}
    driver = start_chromium({"download.default_directory": str(downloads), **automatic})
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> webdriver.Chrome:
    """An empty page, and nothing logged yet."""
    chromium.get("about:blank")
    for kind in ("browser", "performance"):
        chromium.get_log(kind)
    return chromium
