"""Data inside a page: nothing that someone wrote can end the script element or become markup."""

import json
import re

import pytest

from tools.report.page_writer import build_page, embed_json

pytestmark = pytest.mark.unit

HOSTILE = "</script><script>alert(1)</script><!-- ]]> &amp; \u2028\u2029 'x' \"y\" \\u003c \x00 \u202e 😀"


def test_embedded_json_holds_no_character_that_matters_to_html() -> None:
    text = embed_json({"key <b>": HOSTILE})
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == {"key <b>": HOSTILE}


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    assert json.loads(embed_json("a\ud83d b")) == "a\ufffd b"


def test_numbers_that_json_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        embed_json(float("nan"))


def test_the_page_has_one_data_and_one_script_element_and_loads_nothing() -> None:
    page = build_page({"title": f"$data {HOSTILE}", "clips": [HOSTILE]})
    assert page.count("</script>") == 2 and page.count("<script") == 2
    assert "alert(1)</script>" not in page and "$data &lt;/script&gt;" in page
    assert "default-src 'none'" in page and "unsafe-inline" not in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
