"""The Emotional Rationale Verifier: which emotions does a sentence express? (arXiv 2510.23506)

Any Hugging Face sequence classifier with named labels serves, GoEmotions' 28 by default. It always runs in float32
(decision 16).

Shape legend: n sentences, L labels of the classifier.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from datamodules.emotions import GO_EMOTIONS, Taxonomy, get_taxonomy
from lightning_modules.backbones import loading
from lightning_modules.backbones.cpu_linear import use_onednn
from lightning_modules.known_letters import KnownLetters
from lightning_modules.provenance import weights_digest

THRESHOLD = 0.1
"""A label is read in a sentence when its probability is greater than this."""

MAX_LABELS = 2
"""Largest number of labels read in one sentence."""


@dataclass(eq=False)
class SentenceReading:
    """What the verifier reads in one sentence.

    Args:
        text: the sentence.
        probabilities: float32 `[L]` on the CPU, one independent (sigmoid) probability per label.
        emotions: the label set L_s, most probable first; one or two labels.
        labels: the names of the L labels.
    """

    text: str
    probabilities: Tensor
    emotions: tuple[str, ...]
    labels: tuple[str, ...] = GO_EMOTIONS


def label_sets(probabilities: Tensor, threshold: float = THRESHOLD, max_labels: int = MAX_LABELS) -> list[list[int]]:
    """Label set L_s of each sentence, as label indices, most probable first.

    The labels with p > `threshold`; none: the most probable; more than `max_labels`: the most probable of them. So the
    most probable label is always in the set, and the next ones while they are above the threshold.

    Args:
        probabilities: float32 `[n, L]`.
        threshold: the reward's, unless another reading is asked for.
        max_labels: as `threshold`.
    """
    indices, keep = _ranked_labels(probabilities, threshold, max_labels)
    rows = zip(indices.tolist(), keep.tolist(), strict=True)
    return [[i for i, kept in zip(*row, strict=True) if kept] for row in rows]


def label_mask(probabilities: Tensor, threshold: float = THRESHOLD, max_labels: int = MAX_LABELS) -> Tensor:
    """Label set L_s of each sentence (see `label_sets`) as bool `[n, L]`, True where the label is in the set."""
    indices, keep = _ranked_labels(probabilities, threshold, max_labels)
    return torch.zeros_like(probabilities, dtype=torch.bool).scatter(1, indices, keep)


def _ranked_labels(probabilities: Tensor, threshold: float, max_labels: int) -> tuple[Tensor, Tensor]:
    """The `max_labels` most probable labels of each sentence and whether each is in the label set, both `[n, ·]`."""
    values, indices = probabilities.topk(min(max_labels, probabilities.shape[-1]), dim=-1)
    keep = values > threshold
    keep[:, 0] = True
    return indices, keep


def usable_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> int:
    """Longest input in tokens: `max_tokens`, or what the tokenizer and the learned positions allow, if that is less."""
    limits = [max_tokens, int(tokenizer.model_max_length)]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa's positions begin behind the padding index; BERT's begin at 0 and have no padding index.
            limits.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    return min(limits)


def load_classifier(path: str, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """Load a sequence classifier and its tokenizer in float32, from safetensors and without remote code.

    Args:
        path: local Hugging Face directory, or hub id.
        options: passed on to `from_pretrained`.

    Returns:
        The model, its tokenizer, and the loading report (`missing_keys` and others).

    Raises:
        ValueError: `path` is neither a directory that loads nor a hub id that can be reached.
    """
    expected = (
        "Expected a Hugging Face directory (config.json, model.safetensors, tokenizer files), as stage 2 leaves it, "
        "or a hub id such as SamLowe/roberta-base-go_emotions."
    )
    if not Path(path).is_dir() and (len(Path(path).parts) > 2 or path.startswith((".", "~"))):
        raise ValueError(f"No text classifier at {path}: there is no such directory. {expected}")
    try:
        if Path(path).is_dir():
            loading.check_files(Path(path))
        # None, the default of `trust_remote_code`, would ask at the keyboard.
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the directory's files make of transformers' code
        raise ValueError(f"Cannot load a text classifier from {path}: {error}\n{expected}") from error
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise ValueError(
            f"{path} has {len(broken)} weights that are not finite numbers, e.g. {broken[0]}: whatever it read would "
            "mean nothing. Its training has diverged; use another one."
        )
    use_onednn(model)
    return model, tokenizer, report


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """Run a block in true float32: no autocast, and matrix products neither in TensorFloat-32 nor in bfloat16."""
    products = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [product.fp32_precision for product in products]
    for product in products:
        product.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision


class EmotionVerifier(nn.Module):
    """A frozen sentence classifier that keeps its bits.

    As part of a training module it follows the module to its device, but no change of precision reaches it
    (`.to(torch.bfloat16)`, `.half()`, autocast), nor `.train()`, nor `requires_grad_()`.

    Args:
        path: Hugging Face directory or hub id of a sequence classifier whose `id2label` names its labels.
        max_tokens: longest sentence, in tokens; the rest is cut off.
        batch_size: sentences per forward pass.
        taxonomy: name of the taxonomy whose verifier labels must be there; None checks nothing yet.

    Raises:
        ValueError: the path cannot be loaded, the classification head is not in the checkpoint, or labels are missing.
    """

    def __init__(self, path: str, max_tokens: int = 512, batch_size: int = 64, taxonomy: str | None = None) -> None:
        super().__init__()
        if max_tokens < 1 or batch_size < 1:
            raise ValueError(f"Expected max_tokens >= 1 and batch_size >= 1; got {max_tokens} and {batch_size}.")
        self.path = path
        self.batch_size = batch_size
        self.model, self.tokenizer, report = load_classifier(path)
        if report["missing_keys"]:
            raise ValueError(
                f"{path} is not a trained sequence classifier: the checkpoint lacks "
                f"{', '.join(sorted(report['missing_keys']))}. Train it first (stage 2), or name another verifier."
            )
        self.max_tokens = usable_tokens(self.model, self.tokenizer, max_tokens)
        self.labels: tuple[str, ...] = tuple(name for _, name in sorted(self.model.config.id2label.items()))
        for parameter in self.model.parameters():
            parameter.requires_grad = False
        self.eval()
        self.letters = KnownLetters(self.tokenizer, path)
        if taxonomy is not None:
            self.require(get_taxonomy(taxonomy))

    def require(self, taxonomy: Taxonomy) -> None:
        """Check that every class has a label (decision 51), and the classifier that of each.

        Raises:
            ValueError: labels are missing; they are listed.
        """
        if taxonomy.unlabelled:
            raise ValueError(
                f"The taxonomy {taxonomy.name} has no verifier label for {', '.join(taxonomy.unlabelled)}: neither the "
                "explanation reward nor the verifier's verdict on such a clip can be computed. Give each a `verifier` "
                "label in its YAML, or do without a verifier (accuracy, WAR and UAR need none)."
            )
        missing = [label for label in taxonomy.verifier_labels if label not in self.labels]
        if missing:
            raise ValueError(
                f"The verifier {self.path} lacks labels that {taxonomy.name} needs: {', '.join(missing)}. "
                f"It has: {', '.join(self.labels)}. Use a classifier with GoEmotions' labels, or name its labels in "
                "`id2label` of its config.json."
            )

    @cached_property
    def sha256(self) -> str:
        """By which checkpoints know this verifier; see `weights_digest`."""
        return weights_digest(self.model)

    @property
    def device(self) -> torch.device:
        """Where the classifier runs."""
        return next(self.model.parameters()).device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Every cast and move of an enclosing module comes through here. Only the device is taken from it.
        device = fn(torch.empty(0, device=self.device)).device
        return super()._apply(lambda tensor: tensor.to(device), recurse)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever the mode of the enclosing module."""
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Stays frozen."""
        return super().requires_grad_(False)

    @torch.no_grad()
    def probabilities(self, sentences: Sequence[str]) -> Tensor:
        """Probability of each label in each sentence: sigmoid of the logits, float32 `[n, L]`.

        Repeated sentences are run once, and sentences of similar length share a batch.

        Raises:
            ValueError: the sentences are of another language than the classifier's; see `KnownLetters`.
        """
        unique = list(dict.fromkeys(sentences))
        for sentence in unique:
            self.letters.see(sentence)
        result = torch.empty(len(unique), len(self.labels), dtype=torch.float32, device=self.device)
        if not unique:
            return result
        # A special token that a sentence spells is text in it.
        tokens = self.tokenizer(unique, truncation=True, max_length=self.max_tokens, split_special_tokens=True)
        by_length = sorted(range(len(unique)), key=lambda i: len(tokens["input_ids"][i]))
        with _full_float32(self.device):
            for start in range(0, len(by_length), self.batch_size):
                rows = by_length[start : start + self.batch_size]
                inputs = self.tokenizer.pad(
                    {key: [values[i] for i in rows] for key, values in tokens.items()}, return_tensors="pt"
                ).to(self.device)
                result[rows] = self.model(**inputs).logits.sigmoid()
        position = {sentence: i for i, sentence in enumerate(unique)}
        return result[[position[sentence] for sentence in sentences]]

    def read(self, sentences: Sequence[str]) -> list[SentenceReading]:
        """Probabilities and label set of each sentence, on the CPU."""
        probabilities = self.probabilities(sentences).cpu()
        return [
            SentenceReading(text, row, tuple(self.labels[i] for i in label_set), self.labels)
            for text, row, label_set in zip(sentences, probabilities, label_sets(probabilities), strict=True)
        ]

    def read_groups(self, groups: Sequence[Sequence[str]]) -> list[list[SentenceReading]]:
        """Readings of several rationales' sentences, computed together; one list per rationale, possibly empty."""
        readings = iter(self.read(list(chain.from_iterable(groups))))
        return [list(islice(readings, len(group))) for group in groups]
