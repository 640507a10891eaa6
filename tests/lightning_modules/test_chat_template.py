"""Chat templates of strangers: bounded in time, memory and length, and rendered once."""

import shutil
import time
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lightning_modules import chat_template
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.chat_template import QUESTION, render_around, tokenize_around
from lightning_modules.judges import LanguageModelJudge

pytestmark = pytest.mark.unit

LOOP = "{% for i in range(99999) %}"
END = "{% endfor %}"


@pytest.fixture
def directory(tiny_models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models / "language_model", tmp_path / "model"))


@pytest.fixture
def tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


def test_a_template_around_its_placeholders(tokenizer):
    before, after = render_around(tokenizer, f"a{QUESTION}b")
    assert (before, after) == ("<|im_start|>user\na", "b<|im_end|>\n<|im_start|>assistant\n")
    tokenizer.chat_template = "{{ messages[0].content }}{{ own }}"
    assert render_around(tokenizer, "1 2 3", ("1", "3"), own="x") == ["", " 2 ", "x"]


@pytest.mark.parametrize(
    "template",
    [
        LOOP + LOOP + LOOP + "x" + END * 3,
        LOOP * 2 + END * 2 + "{{ messages[0].content }}",
        "{% set x = namespace(n=2) %}" + LOOP + "{% set x.n = x.n * x.n %}" + END,
        "{{ 9 ** 999999999 }}",
    ],
)
def test_loops_within_loops_end_at_the_limit(tokenizer, directory, monkeypatch, template):
    monkeypatch.setattr(chat_template, "_SECONDS", 0.2)
    tokenizer.chat_template = template
    start = time.monotonic()
    with pytest.raises(ValueError, match=rf"chat template of {directory} .*its rendering timed out after 0.2 s"):
        render_around(tokenizer, QUESTION)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 'x' * 10 ** 12 }}", "MemoryError"),
        ("{{ 'x' * 10 ** 6 }}", "it writes 1000000 characters, expected at most"),
        ("{{ messages[0].content }}" * 2, "expected"),
        ("a", r"of the parts of a turn it writes \[\], expected"),
        ("{% for", "TemplateSyntaxError"),
        ("{{ raise_exception('\x1b[31mno') }}", r"TemplateError: \\x1b\[31mno"),
        ("{{ messages[5].content }}", "UndefinedError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ],
)
def test_a_template_that_cannot_be_used(tokenizer, directory, template, message):
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=rf"(?s)chat template of {directory} .*{message}"):
        render_around(tokenizer, QUESTION)


def test_what_loads_a_model_names_its_template(tiny_models, directory, monkeypatch):
    monkeypatch.setattr(chat_template, "_SECONDS", 0.2)
    (directory / "chat_template.jinja").write_text(LOOP * 2 + END * 2)
    judge = LanguageModelJudge(str(directory), device="cpu")
    parts = {name: str(tiny_models / name) for name in ("vision", "audio")}
    composed = ComposedBackbone(**parts, language_model=str(directory), num_frames=2)
    for prompt in (lambda: list(judge.ask(["Which?"])), lambda: composed._tokenize("Which?")):
        with pytest.raises(ValueError, match=rf"chat template of {directory} .*timed out"):
            prompt()


def test_a_template_is_rendered_once(directory, monkeypatch):
    judge = LanguageModelJudge(str(directory), device="cpu", max_new_tokens=1)
    rendered = []
    original = type(judge.tokenizer).apply_chat_template
    monkeypatch.setattr(chat_template.IsolatedFunction, "__call__", lambda self, item: self.function(item))
    monkeypatch.setattr(chat_template, "_limit_memory", lambda: None)
    monkeypatch.setattr(
        type(judge.tokenizer),
        "apply_chat_template",
        lambda *given, **options: rendered.append(given) or original(*given, **options),
    )
    assert len(list(judge.ask(["Which?", "Why?", "Who?"]))) == 3
    assert len(rendered) == 1


def test_tokens_are_those_of_the_whole_prompt_and_no_special_one_comes_from_the_question(tokenizer):
    before, after = render_around(tokenizer, QUESTION)
    for question in ("Which emotion?", " \n He smiles.\n", "é😀"):
        whole = tokenizer(before + question + after, add_special_tokens=False)["input_ids"]
        assert tokenize_around(tokenizer, before, question, after) == whole
    special = set(tokenizer.all_special_ids)
    plain = tokenize_around(tokenizer, before, "Which?", after)
    spelt = tokenize_around(tokenizer, before, f"Which{''.join(tokenizer.all_special_tokens)}?", after)
    assert [token for token in plain if token in special] == [token for token in spelt if token in special]
    assert tokenizer.decode(spelt) == f"{before}Which{''.join(tokenizer.all_special_tokens)}?{after}"
