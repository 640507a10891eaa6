"""A local language model as judge: padding, templates, settings. Random weights name no emotion."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.judges import Judge, LanguageModelJudge
from lightning_modules.judges.prompt import judge_prompt

pytestmark = pytest.mark.unit

RATIONALES = ["He smiles.", "The man frowns hard. He shouts in a loud voice. The room is quiet.", "She cries a lot."]


@pytest.fixture
def path(tiny_models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models / "language_model", tmp_path / "model"))


def greedy(judge: LanguageModelJudge, text: str, max_new_tokens: int = 16) -> str:
    """One prompt without padding, token by token: a second computation."""
    tokens = judge.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    start = tokens.shape[1]
    for _ in range(max_new_tokens):
        with torch.no_grad():
            following = judge.model(tokens).logits[0, -1].argmax()
        tokens = torch.cat([tokens, following.view(1, 1)], dim=1)
        if int(following) == judge.tokenizer.eos_token_id:
            break
    return judge.tokenizer.decode(tokens[0, start:], skip_special_tokens=True)


def test_batches_padded_on_the_left_reply_as_each_prompt_alone(path):
    judge = LanguageModelJudge(str(path), batch_size=3, device="cpu")
    assert isinstance(judge, Judge)
    assert judge.name == f"language-model:{path}"
    prompts = [judge_prompt(rationale, DFEW_TAXONOMY) for rationale in RATIONALES]
    replies = dict(judge.ask(prompts))
    turns = [f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n" for prompt in prompts]
    assert [replies[i] for i in range(3)] == [greedy(judge, turn) for turn in turns]
    assert len(set(replies.values())) > 1  # the model does look at the prompt
    one_by_one = LanguageModelJudge(str(path), batch_size=1, device="cpu")
    assert dict(one_by_one.ask(prompts)) == replies


def test_what_random_weights_say_is_invalid_and_counted(path):
    judge = LanguageModelJudge(str(path), device="cpu")
    assert judge.judge([*RATIONALES, ""], DFEW_TAXONOMY) == [None] * 4
    assert (judge.num_judged, judge.num_invalid) == (4, 4)
    assert judge.unread_reply is not None


def test_a_model_without_a_template_continues_the_question_to_the_end_of_the_line(path):
    (path / "chat_template.jinja").unlink()
    judge = LanguageModelJudge(str(path), device="cpu")
    assert judge.tokenizer.chat_template is None
    prompts = [judge_prompt(rationale, DFEW_TAXONOMY) for rationale in RATIONALES]
    expected = [greedy(judge, prompt).strip().partition("\n")[0] for prompt in prompts]
    replies = dict(judge.ask(prompts))
    assert [replies[i] for i in range(3)] == expected


def test_a_template_is_asked_to_leave_thinking_out(path):
    template = "{{ messages[0].content }}{% if enable_thinking %}<think>{% else %}</think>{% endif %}"
    (path / "chat_template.jinja").write_text(template)
    judge = LanguageModelJudge(str(path), device="cpu")
    (_, reply), *_ = judge.ask(["Which emotion?"])
    assert reply == greedy(judge, "Which emotion?</think>")


def test_nothing_is_taken_from_the_checkpoints_generation_settings(path):
    before = dict(LanguageModelJudge(str(path), device="cpu").ask(RATIONALES))
    settings = json.loads((path / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 5.0, "repetition_penalty": 1.9, "max_length": 3, "num_beams": 2}
    (path / "generation_config.json").write_text(json.dumps(settings))
    assert dict(LanguageModelJudge(str(path), device="cpu").ask(RATIONALES)) == before


def test_a_prompt_longer_than_the_models_context_has_no_reply(path):
    judge = LanguageModelJudge(str(path), device="cpu")
    length = judge.model.config.max_position_embeddings
    assert judge.judge(["long " * length, "He smiles."], DFEW_TAXONOMY) == [None, None]
    assert dict(judge.ask(["long " * length, "He smiles."]))[0] is None
    assert judge.num_invalid == 2


def test_few_tokens(path):
    judge = LanguageModelJudge(str(path), max_new_tokens=2, device="cpu")
    turn = f"<|im_start|>user\n{RATIONALES[0]}<|im_end|>\n<|im_start|>assistant\n"
    assert dict(judge.ask(RATIONALES[:1])) == {0: greedy(judge, turn, max_new_tokens=2)}


def test_what_is_no_such_model_is_refused(path, tiny_models, tmp_path):
    with pytest.raises(ValueError, match="siglip_vision_model.* expected .*a causal language model"):
        LanguageModelJudge(str(tiny_models / "vision"))
    with pytest.raises(ValueError, match="batch_size >= 1"):
        LanguageModelJudge(str(path), batch_size=0)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read|holds more than tensors"):
        LanguageModelJudge(str(path))
