"""`python main.py export`: a trained model with its card, in a directory to pass on or on the Hugging Face hub."""

import shutil
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from rich.console import Console

from datamodules.files.writing import written_whole
from lightning_modules.metrics.predictions import read_predictions


def export(
    model: str,
    predictions: list[str] | None = None,
    name: str | None = None,
    output: str | None = None,
    push: str | None = None,
    public: bool = False,
) -> None:
    """Write the card of a trained model, with its evaluation, and pass the model on.

    Args:
        model: what `fit` has exported: `<run directory>/model`.
        predictions: prediction files of it (`test`, `score`); each is a table of the card, with judge and intervals.
        name: the model's name in the card; by default that of `push`, else of the run directory.
        output: directory to copy it to; null writes the card where the model is.
        push: `owner/name` of a repository of the Hugging Face hub, made where there is none, private unless `public`.
            The token is that of `hf auth login` or of the variable HF_TOKEN.
        public: make a new repository public.

    Raises:
        FileNotFoundError: `model` is no such directory, or there is no such prediction file.
        ValueError: `output` is there already or within `model`, the facts of the model are malformed, there are
            predictions and it is a verifier, or the hub refuses.
    """
    # They import Lightning and transformers.
    from callbacks.model_card import CARD_FILE, TRAINING_FILE, model_card, read_facts

    directory = Path(model)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"There is no directory {directory}. Expected what `fit` exports, <run directory>/model."
        )
    if not (directory / TRAINING_FILE).is_file():
        raise FileNotFoundError(
            f"{directory} has no {TRAINING_FILE}: expected what `fit` exports, <run directory>/model "
            "(models of 28 November 2026 and before have none: train, or go on with --ckpt_path last, to export again)."
        )
    facts = read_facts(directory)
    if predictions and facts["stage"] == "verifier":
        raise ValueError(f"{directory} is a verifier, which makes no predictions of clips. Leave --predictions out.")
    evaluations = [read_predictions(path) for path in predictions or ()]
    title = name or (push.partition("/")[2] if push else "") or directory.resolve().parent.name
    card = model_card(title, facts, evaluations)
    if output is not None:
        if Path(output).exists():
            raise ValueError(f"{output} is there already. Name a directory that is not.")
        if Path(output).resolve().is_relative_to(directory.resolve()):
            raise ValueError(f"{output} is within {directory}, which is copied. Name a directory beside it.")
        directory = Path(shutil.copytree(directory, output))
    with written_whole(directory / CARD_FILE) as temporary:
        temporary.write_text(card, encoding="utf-8")
    console = Console()
    console.print(f"Written: {directory / CARD_FILE}", markup=False, soft_wrap=True)
    if push is not None:
        console.print(f"Pushed: {_push(directory, push, public)}", markup=False, soft_wrap=True)


def _push(directory: Path, repository: str, public: bool) -> str:
    """Upload a directory; the address of what was made of it."""
    hub = HfApi()
    try:
        hub.create_repo(repository, private=not public, exist_ok=True)
        return str(hub.upload_folder(repo_id=repository, folder_path=directory, commit_message="Upload by erv export"))
    except (HfHubHTTPError, HTTPError, OSError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise ValueError(
            f"{repository} cannot be pushed to {hub.endpoint} ({type(error).__name__}: {cause}). Expected owner/name, "
            "and a token with the right to write: `hf auth login`, or the variable HF_TOKEN."
        ) from error
