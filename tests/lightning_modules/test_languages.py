"""Rationales in other languages than English: a multilingual verifier learns them, an English one is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from datamodules.batch import Clip, collate
from datamodules.labelled_sentences import LabelledSentence
from datamodules.rationale import Response, read_response, split_sentences
from datamodules.rationale_text import collate_sentences
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.emotion_verifier import EmotionVerifier
from lightning_modules.policy import PolicyModule
from lightning_modules.verifier import VerifierModule

from .conftest import SHORT, Batches

pytestmark = pytest.mark.unit

TINY = Path(__file__).parents[1] / "golden/tiny_verifier"
CHINESE = "画面中的女性皱着眉头，嘴唇紧闭。她的声音低沉而颤抖！她为什么害怕？也许她听到了什么。"
SENTENCES = [
    LabelledSentence("她笑了。", ("joy",)),
    LabelledSentence("她很害怕。", ("fear",)),
    LabelledSentence("She smiles.", ("joy",)),
    LabelledSentence("She trembles.", ("fear",)),
]


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny XLM-RoBERTa with a unigram vocabulary of two languages, and no classification head."""
    directory = tmp_path_factory.mktemp("xlm")
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    # Not trained: tokenizers' trainer gives another vocabulary each time.
    letters = sorted({*"".join([CHINESE, *(sentence.text for sentence in SENTENCES)]), "▁"} - {" "})
    vocabulary = [*((name, 0.0) for name in special), *((letter, -1.0) for letter in letters)]
    base = Tokenizer(models.Unigram(vocabulary, unk_id=special.index("<unk>")))
    base.pre_tokenizer, base.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    base.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", base.token_to_id("<s>")), ("</s>", base.token_to_id("</s>"))]
    )
    names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token"), special, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, model_max_length=64, **names)
    tokenizer.save_pretrained(directory)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=66,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    XLMRobertaModel(config).save_pretrained(directory)
    return directory


@pytest.mark.filterwarnings("ignore")
def test_stage_2_takes_a_multilingual_encoder(multilingual: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = VerifierModule(str(multilingual), learning_rate=1e-2)
    loader = DataLoader(SENTENCES, batch_size=4, collate_fn=collate_sentences)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    Trainer(accelerator="cpu", max_epochs=60, default_root_dir=tmp_path, **quiet).fit(module, loader)
    module.export(tmp_path / "model")
    verifier = EmotionVerifier(str(tmp_path / "model"))
    readings = verifier.read_groups([split_sentences("她笑了。她很害怕。"), ["She smiles."]])
    assert [[own.emotions[0] for own in group] for group in readings] == [["joy", "fear"], ["joy"]]
    for _ in range(20):
        verifier.read(split_sentences(CHINESE))  # its vocabulary has these letters


def test_an_english_verifier_refuses_chinese_rationales_and_says_how_much_it_does_not_know() -> None:
    verifier = EmotionVerifier(str(TINY))
    few = split_sentences(CHINESE)
    verifier.read(few)  # a name, a quotation
    with pytest.raises(ValueError, match=r"^(\d\d|100) % of the letters .* another language.*xlm-roberta-base"):
        verifier.read([f"{i}{sentence}" for i in range(20) for sentence in few])


def test_names_and_quotations_of_another_script_do_no_harm() -> None:
    verifier = EmotionVerifier(str(TINY))
    for i in range(200):
        verifier.read([f"The man, called 王伟 or Андрей, says “naïve” {i} times and smiles at the camera."])


@pytest.mark.parametrize("aliases", ["published", "extended"])
def test_a_test_warns_of_answers_of_another_language_than_its_words(
    backbone: ComposedBackbone,
    make_clip: Callable[..., Clip],
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    tmp_path: Path,
    aliases: str,
) -> None:
    def read(self: PolicyModule, texts: list[str], strict: bool = False) -> list[Response]:
        return [read_response("<think>她笑了。</think>\n<answer>高兴</answer>", self.taxonomy) for _ in texts]

    monkeypatch.setattr(PolicyModule, "read", read)
    module = PolicyModule(backbone, "dfew", evaluation=SHORT, aliases=aliases)  # type: ignore[arg-type]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.test(module, datamodule=Batches([collate([make_clip(0), make_clip(1)])]), verbose=False)
    told = [str(own.message) for own in recwarn if "made for another language" in str(own.message)]
    if aliases == "published":
        assert len(told) == 1 and told[0].startswith("100 % of the answers (such as 高兴)")
    else:
        assert not told and module.metrics_report()["unknown_answers"] == 0
