"""The verifier as judge: works offline."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datamodules.emotions import Taxonomy
from datamodules.files.printable import printable
from datamodules.rationale import split_sentences
from lightning_modules.judges.base import Judge, find_device

if TYPE_CHECKING:
    from lightning_modules.emotion_verifier import SentenceReading


def verifier_verdict(readings: "Sequence[SentenceReading]", taxonomy: Taxonomy) -> str | None:
    """Class whose verifier label has the highest mean probability over a rationale's sentences.

    Args:
        readings: what the verifier read in each sentence.
        taxonomy: the classes to choose from; the first of them wins a tie.

    Returns:
        The canonical emotion; None without a sentence (invalid).
    """
    if not readings:
        return None
    columns = [readings[0].labels.index(label) for label in taxonomy.verifier_labels]
    import torch

    means = torch.stack([reading.probabilities[columns] for reading in readings]).mean(dim=0)
    return taxonomy.classes[int(means.argmax())]


def verifier_judge_name(path: str) -> str:
    """Name of the verifier at a path as judge, whoever has read the sentences with it."""
    return printable(f"verifier:{path}")


class VerifierJudge(Judge):
    """The verifier, restricted to the taxonomy's classes, as judge.

    Args:
        verifier: Hugging Face directory or hub id of a sentence classifier; preferably not the one that gave the
            reward.
        device: where it runs, e.g. `cpu` or `cuda:1`; `auto` is a GPU if there is one.

    Raises:
        ValueError: the verifier does not load.
    """

    def __init__(self, verifier: str, device: str = "auto") -> None:
        # Torch and transformers take seconds to import: those of the judges do it that load a model.
        from lightning_modules.emotion_verifier import EmotionVerifier

        self.name = verifier_judge_name(verifier)
        self.verifier = EmotionVerifier(verifier)
        self.device = device

    def judge(self, rationales: Sequence[str], taxonomy: Taxonomy) -> list[str | None]:
        """Canonical emotion of each rationale, or None where it has no sentence.

        Raises:
            ValueError: the verifier lacks a label that the taxonomy needs.
        """
        self.verifier.require(taxonomy)
        # Not before: a process of a distributed run knows its own GPU only once the Trainer has started it.
        self.verifier.to(find_device(self.device))
        groups = self.verifier.read_groups([split_sentences(rationale) for rationale in rationales])
        return [verifier_verdict(readings, taxonomy) for readings in groups]
