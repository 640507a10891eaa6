"""What an exported model is, for those who get it: `training.json` for programs, a model card for people.

A card says which base, corpora and settings the model comes from, how it was evaluated and by whom, and under whose
terms it stands. Local paths are shortened to their last two names: where someone keeps data is nobody's business.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from lightning import LightningModule, Trainer
from transformers import PreTrainedModel

from callbacks.inspection.hparams import hyperparameters, taxonomy_name
from callbacks.inspection.markdown import escaped
from datamodules.clip_datamodule import ClipDataModule
from datamodules.emotions import get_taxonomy
from datamodules.files.json_files import read_json_object, shown
from datamodules.files.printable import printable
from lightning_modules.backbones.adapters import hub_name
from lightning_modules.metrics.intervals import rate_intervals
from lightning_modules.metrics.predictions import PredictionFile, by_corpus
from lightning_modules.policy import PolicyModule
from lightning_modules.provenance import code_version

TRAINING_FILE = "training.json"
CARD_FILE = "README.md"

_STAGES = {
    "cold_start": "stage 1, supervised cold start on written rationales",
    "verifier": "stage 2, a classifier of the emotions that a sentence conveys",
    "grpo": "stage 3, GRPO with the rewards below",
}
_NAMES = {"war": "WAR", "uar": "UAR", "eea": "EEA", "epc": "EPC", "fcr": "FCR"}
_SHOWN = (
    "trainable",
    "rewards",
    "learning_rate",
    "schedule",
    "batch_size",
    "num_processes",
    "group_size",
    "beta",
    "precision",
    "seed",
)
"""Settings that a card names; `training.json` has all."""
_METHOD = "Emotional Rationale Verifier ([arXiv 2510.23506](https://arxiv.org/abs/2510.23506))"
_LOADING = {
    "ComposedBackbone": "`python main.py predict -c stage/evaluate -c data/clips -c backbone/composed "
    "--model.backbone.path DIR --data.path my_clips/`, or part by part with transformers: "
    '`SiglipVisionModel` and `AutoImageProcessor(backend="pil")` on `vision/`, `WhisperEncoder` and '
    "`AutoFeatureExtractor` on `audio/`, `AutoModelForCausalLM` and `AutoTokenizer` on `language_model/`; the "
    "projectors are in `projectors.safetensors`.",
    "HumanOmniBackbone": "`-c backbone/humanomni --model.backbone.path DIR`.",
    "HFBackbone": "transformers' own classes, or `--model.backbone.path DIR` with the model's YAML file.",
    "VerifierModule": "`AutoModelForSequenceClassification` and `AutoTokenizer`; labels are independent (sigmoid).",
}


_FORM: dict[str, Any] = {
    "stage": str,
    "class": str,
    "base": dict,
    "base_training": dict | None,
    "corpora": list,
    "taxonomy": str | None,
    "settings": dict,
    "optimizer_steps": int,
    "adapters": bool,
    "code": str,
}
"""What `training.json` holds; see `training_facts`."""


def shortened(name: str) -> str:
    """A hub id as it is; of a path here its last two names, behind an ellipsis."""
    path = Path(name)
    return "/".join(("…", *path.parts[-2:])) if path.is_absolute() or path.exists() else name


def training_facts(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """How a model was trained, as plain JSON values; `training.json` of its directory.

    Returns:
        `stage`; `class`; `base`, part → hub id or shortened path; `base_training`, the same facts of a base that was
        exported here (null: it was not); `corpora`; `taxonomy`; `settings` (`hyperparameters`); `optimizer_steps`;
        `adapters`, whether only adapters of the language model were trained; `code`, the version of this package.
    """
    is_policy = isinstance(module, PolicyModule)
    trained: Any = module.backbone if is_policy else module
    parts = {name: part for name, part in trained.named_children() if isinstance(part, PreTrainedModel)}
    bases = {name: hub_name(part) for name, part in parts.items()}
    data = getattr(trainer, "datamodule", None)
    return {
        "stage": getattr(module, "stage", "verifier"),
        "class": type(trained).__name__,
        "base": {name: shortened(base) for name, base in bases.items()},
        "base_training": _training_of(bases.values()),
        "corpora": sorted({record.dataset for record in data.datasets["train"].records})
        if isinstance(data, ClipDataModule)
        else []
        if data is None
        else [type(data).__name__],
        "taxonomy": taxonomy_name(module.taxonomy.name) if is_policy else None,
        "settings": hyperparameters(trainer, module),
        "optimizer_steps": trainer.global_step,
        "adapters": getattr(trained, "lora", None) is not None,
        "code": code_version(),
    }


def _training_of(bases: Any) -> dict[str, Any] | None:
    for base in bases:
        for directory in (Path(base), Path(base).parent):  # a part of a composed model lies below it
            if (directory / TRAINING_FILE).is_file():
                with suppress(ValueError):  # a file of this name that another program wrote
                    return read_facts(directory)
    return None


def read_facts(directory: Path) -> dict[str, Any]:
    """The facts of an exported model; see `training_facts`.

    Raises:
        FileNotFoundError: it has none.
        ValueError: they are not of this form.
    """
    path = directory / TRAINING_FILE
    facts = read_json_object(path)
    of_stage: Any = facts
    while of_stage is not None:
        for name, kind in _FORM.items():
            if not isinstance(of_stage.get(name), kind):
                raise ValueError(
                    f"{path}: {name} is {shown(of_stage.get(name))}. Expected what `fit` exports beside a model."
                )
        of_stage = of_stage["base_training"]
    return facts


def model_card(title: str, facts: dict[str, Any], evaluations: Sequence[PredictionFile] = ()) -> str:
    """The card, in the hub's form.

    Args:
        title: the model's name.
        facts: see `training_facts`.
        evaluations: prediction files of `test` or `score`, each of which becomes a table.
    """
    stages = [facts]
    while stages[-1]["base_training"]:
        stages.append(stages[-1]["base_training"])
    published = [printable(base) for base in map(str, stages[-1]["base"].values()) if not base.startswith("…")]
    title = printable(title)
    tables, results = [], []
    for file in evaluations:
        table, found = _evaluation(file)
        tables.append(table)
        results += found
    is_verifier = facts["stage"] == "verifier"
    metadata = ModelCardData(
        license="other",
        license_name="see-licences-below",
        base_model=[base.partition("@")[0] for base in published] or None,  # the hub takes no revision here
        tags=["emotion-recognition", "explainability", "erv", "lightning"],
        pipeline_tag="text-classification" if is_verifier else "video-text-to-text",
        model_name=title,
        eval_results=results or None,
    )
    evaluated = tables or ["None yet: `python main.py export --predictions ...` adds a table for each file."]
    return "\n\n".join(
        [
            f"---\n{metadata.to_yaml()}\n---\n\n# {escaped(title)}",
            f"Reads which emotions a sentence of a rationale conveys; reward and judge of the {_METHOD}."
            if is_verifier
            else f"Watches and hears a clip, writes a rationale in `<think>` and an emotion in `<answer>`: {_METHOD}.",
            "## Training",
            *map(_training, reversed(stages)),
            "## Evaluation",
            *evaluated,
            "## Use",
            _LOADING.get(facts["class"], f"The class `{facts['class']}`.")
            + (" `adapter/` holds the adapters alone, for peft." if facts["adapters"] else ""),
            "## Limits and licences",
            "A rationale says what raises the reward, which need not be what the clip shows: look at how much of it is "
            "grounded. Emotions that people show, feel and are said to feel differ; do not decide on people by this "
            "model.",
            "The base models' licences hold for these weights, too. The corpora are lent for research under terms of "
            "their own; see what they say of weights trained on them before you pass these on.",
        ]
    )


def _training(facts: dict[str, Any]) -> str:
    bases = ", ".join(f"{escaped(part)} from {_code(base)}" for part, base in facts["base"].items())
    values = {name: facts["settings"][name] for name in _SHOWN if name in facts["settings"]}
    written = {name: f"{value:g}" if isinstance(value, float) else value for name, value in values.items()}
    settings = "; ".join(f"{name} {escaped(str(value))}" for name, value in written.items())
    classes = "" if facts["taxonomy"] is None else f", classes {_classes(facts['taxonomy'])}"
    adapters = "; adapters of the language model only" if facts["adapters"] else ""
    corpora = ", ".join(escaped(str(corpus)) for corpus in facts["corpora"]) or "data of its own"
    return (
        f"- **{_STAGES.get(facts['stage'], escaped(facts['stage']))}**: "
        f"optimizer steps {facts['optimizer_steps']:,}, on {corpora}{classes}{adapters}. {bases}. {settings}. "
        f"Code: erv {escaped(facts['code'])}."
    )


def _code(text: object) -> str:
    """A text as code within a line."""
    return f"`{printable(str(text)).replace('`', chr(39))}`"


def _classes(taxonomy: str) -> str:
    if "/" in taxonomy:
        return escaped(taxonomy_name(taxonomy))
    return f"{escaped(taxonomy)} ({', '.join(get_taxonomy(taxonomy).classes)})"


def _evaluation(file: PredictionFile) -> tuple[str, list[EvalResult]]:
    """A table of rates with intervals, per corpus where there are several, and the same for the hub's index."""
    corpora = by_corpus(file.predictions) or {_only_corpus(file): list(file.predictions)}
    lines = [
        f"Judge: {'none' if file.judge is None else escaped(_judge(file.judge))}; 95 % intervals over clips; "
        f"taxonomy {escaped(taxonomy_name(file.taxonomy.name))}.",
        "",
        f"| corpus | clips | {' | '.join(_NAMES.values())} |",
        f"|---|---|{'---|' * len(_NAMES)}",
    ]
    results = []
    for corpus, predictions in corpora.items():
        rates = rate_intervals(predictions, file.taxonomy, file.judge is not None)
        cells = [
            "–" if rate not in rates else f"{rates[rate].value:.3f} ({rates[rate].low:.3f} to {rates[rate].high:.3f})"
            for rate in _NAMES
        ]
        lines.append(f"| {escaped(corpus)} | {len(predictions):,} | {' | '.join(cells)} |")
        results += [
            EvalResult(
                task_type="video-classification",
                dataset_type=corpus.lower(),
                dataset_name=corpus,
                metric_type=rate,
                metric_name=_NAMES[rate],
                metric_value=round(interval.value, 4),
            )
            for rate, interval in rates.items()
        ]
    return "\n".join(lines), results


def _judge(name: str) -> str:
    """A judge's name, `kind:model`, with a path in it shortened."""
    kind, colon, model = name.partition(":")
    return kind + colon + (shortened(model) if model else "")


def _only_corpus(file: PredictionFile) -> str:
    return next((own.dataset for own in file.predictions if own.dataset), "clips")
