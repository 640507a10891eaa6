"""Malformed files for every command that reads files: one sentence that names the file, status 2, no traceback."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import main
from datamodules.files.writing import write_json, write_rows

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[1]
Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must end in one sentence; returns it."""

    def run(*arguments: str, names: str) -> str:
        capsys.readouterr()
        assert main.main(list(arguments)) == 2
        printed = capsys.readouterr()
        lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and printed.err.splitlines()[-1] == lines[0], printed.err
        assert "Traceback" not in printed.err + printed.out
        assert names in lines[0] and len(lines[0]) < 1100 and lines[0].isprintable()
        return lines[0]

    return run


PREDICTION: dict[str, Any] = {
    "id": "1",
    "target": "anger",
    "prediction": "anger",
    "format": 1.0,
    "accuracy": 1.0,
    "explanation": 0.5,
    "sentences": [{"text": "He frowns.", "emotions": ["anger"], "probabilities": {"anger": 0.9, "joy": 0.1}}],
    "judged": "anger",
    "judge": "someone",
    "taxonomy": "dfew",
    "completion": "<think>He frowns.</think>\n<answer>angry</answer>",
    "emotion": "anger",
    "media": "a.mp4",
}


def line(**changes: Any) -> bytes:
    return json.dumps(PREDICTION | changes).encode() + b"\n"


def sentence(**changes: Any) -> bytes:
    return line(sentences=[PREDICTION["sentences"][0] | changes])


ANY_LINES: dict[str, bytes] = {
    "empty": b"",
    "blank": b"\n \n\n",
    "zeros": bytes(64),
    "cut": line() + line(id="2")[:-30],
    "no object": b"[1, 2]\n",
    "words": b"these are words\n",
    "UTF-16": line().decode().encode("utf-16"),
    "Latin-1": line() + line(id="2").replace(b"frowns", b"r\xe9sum\xe9s"),
    "key twice": b'{"id": "1", "id": "2"}\n',
    "NaN": line().replace(b"0.5", b"NaN"),
    "too large a number": line().replace(b"0.5", b"1e999"),
    "too long a number": b'{"id": ' + b"9" * 5000 + b"}\n",
    "too deep": b'{"id": "1", "target": ' + b"[" * 100_000 + b"\n",
    "id of another type": line(id=["1"]),
    "id twice": line() + line(),
}
PREDICTIONS = {
    "no class": line(target="joyful"),
    "prediction of another type": line(prediction=3),
    "no format": line(format=None),
    "accuracy out of range": line(accuracy=2),
    "sentences of another type": line(sentences="He frowns."),
    "a sentence of another type": line(sentences=["He frowns."]),
    "probability out of range": sentence(probabilities={"anger": -5}),
    "probability of another type": sentence(probabilities={"anger": "0.9"}),
    "label of another type": sentence(emotions=[1]),
    "unknown taxonomy": line(taxonomy="mine"),
    "escape sequences in the taxonomy": line(taxonomy="\x1b[31mdfew\x1b]0;x\x07"),
    "two taxonomies": line() + line(id="2", taxonomy="mafw"),
    "two judges": line() + line(id="2", judge="\x1b[31m"),
    "media of another type": line(media=["a.mp4"]),
    "cut within a character": line(completion="é")[:-4] + b"\n",
}
"""Beside `ANY_LINES`, for what reads predictions."""
SCORED = "--completions {good} --taxonomy dfew --verifier {models}/verifier --output {out}"
READERS = {
    "compare": "--predictions {runs} --output {out}",
    "alarms": "--predictions {file} --output {out}",
    "report": "--predictions {file} --output {out}",
    "verifier_effect": "--predictions {runs} --output {out}",
    "judge": "--predictions {file} --judge VerifierJudge --judge.verifier {models}/verifier --output {out}.jsonl",
    "agreement": "--first {good} --second {file} --output {out}",
    "score": SCORED.replace("{good}", "{file}"),
    "score --judge": f"{SCORED} --judge {{file}}",
    "label_sentences": "--predictions {file} --labeller VerifierJudge --labeller.verifier {models}/verifier "
    "--output {out}.jsonl",
}


@pytest.fixture
def arguments_for(tmp_path: Path, tiny_models: Path) -> Callable[[str, Path], list[str]]:
    """The command line on which a command reads a file."""

    def arguments(command: str, file: Path) -> list[str]:
        good = tmp_path / "good.jsonl"
        good.write_bytes(line())
        places = {"file": file, "good": good, "out": tmp_path / "out", "models": tiny_models}
        options = [option.format(runs=f"{{a: {file}, b: {good}}}", **places) for option in READERS[command].split(" ")]
        return [command.split(" ")[0], *options]

    return arguments


def pairs() -> Iterator[tuple[str, str]]:
    for command in READERS:
        yield from ((command, damage) for damage in ANY_LINES)
    for command in ("compare", "alarms", "report", "verifier_effect", "judge"):
        yield from ((command, damage) for damage in PREDICTIONS)


@pytest.mark.parametrize(("command", "damage"), list(pairs()))
def test_lines(tmp_path: Path, arguments_for: Any, refused: Refused, command: str, damage: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes((ANY_LINES | PREDICTIONS)[damage])
    refused(*arguments_for(command, file), names="bad.jsonl")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["missing", "directory", "name too long"])
@pytest.mark.parametrize("command", READERS)
def test_places(tmp_path: Path, arguments_for: Any, refused: Refused, command: str, place: str) -> None:
    file = tmp_path / ("n" * 300 if place == "name too long" else "") / "bad.jsonl"
    if place == "directory":
        file.mkdir()
    refused(*arguments_for(command, file), names="bad.jsonl")


CONFIGS = {
    "missing": None,
    "no mapping": b"- 1\n",
    "key twice": b"predictions: [a]\noutput: x\npredictions: [b]\n",
    "key twice inside": b"thresholds: {a: [1, 2], a: [3, 4]}\n",
    "no YAML": b"predictions: [a\noutput: x\n",
    "tabs": b"thresholds:\n\ta: 1\n",
    "UTF-16": "output: é\n".encode("utf-16"),
    "Latin-1": "output: é\n".encode("latin-1"),
    "control characters": b"output: \x1b[31m\n",
    "too deep": b"thresholds: " + b"[" * 10_000 + b"]" * 10_000,
    "code": b"output: !!python/object/apply:os.getcwd []\n",
}


@pytest.mark.parametrize("damage", CONFIGS)
@pytest.mark.parametrize("command", ["alarms", "fit"])
def test_configurations(tmp_path: Path, refused: Refused, command: str, damage: str) -> None:
    file, content = tmp_path / "bad.yaml", CONFIGS[damage]
    if content is not None:
        file.write_bytes(content)
    refused(command, "-c", str(file), names="bad.yaml")


DFEW_TRAIN, DFEW_TEST = (f"EmoLabel_DataSplit/{part}(single-labeled)/set_5.csv" for part in ("train", "test"))
STAGE_3 = (
    "trainer/default", "trainer/cpu", "stage/grpo", "data/dfew", "backbone/composed", "demo/backbone", "demo/data",
    "demo/grpo",
)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("--modle.learning_rate 1", "modle.learning_rate"),
        ("--model.learning_rat 1", "learning_rat"),
        ("--model.learning_rate fast", "learning_rate"),
        ("--model.learning_rate .nan", "learning_rate"),
        ("--model.group_size 1.5", "group_size"),
        ("--model NoModule", "NoModule"),
        ("--data os.system", "os.system"),
        ("--data.fold 9", "fold"),
        ("--data.media.num_frames 0", "num_frames"),
        ("--trainer.precision bf15", "precision"),
        ("--trainer.strategy fsdp9", "fsdp9"),
        ("--model.backbone.lora 3", "lora"),
        ("--model.verifier /no/such/place", "/no/such/place"),
        ("--data.root /no/such/place", "/no/such/place"),
    ],
)
def test_options(tmp_path: Path, tiny_models: Path, refused: Refused, options: str, names: str) -> None:
    arguments = [part for name in STAGE_3 for part in ("-c", str(ROOT / "configs" / f"{name}.yaml"))]
    arguments += [f"--model.backbone.{part}={tiny_models}/{part}" for part in ("vision", "audio", "language_model")]
    arguments += [f"--data.root={tmp_path}", f"--model.verifier={tiny_models}/verifier"]
    arguments += [f"--trainer.default_root_dir={tmp_path}/run"]
    for number, file in enumerate((DFEW_TRAIN, DFEW_TEST), start=1):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(f"video_name,label\n{number},1\n")
    (tmp_path / "clip").mkdir()
    refused("fit", *arguments, *options.split(" "), names=names)


MAFW_TRAIN = "Train & Test Set/single/no_caption/set_5/train.txt"
LABELS: dict[str, tuple[str, str, bytes | None]] = {
    "DFEW, no labels": ("DFEW", DFEW_TRAIN, None),
    "DFEW, empty": ("DFEW", DFEW_TRAIN, b""),
    "DFEW, header": ("DFEW", DFEW_TRAIN, b"name,label\n1,1\n"),
    "DFEW, column twice": ("DFEW", DFEW_TRAIN, b"video_name,label,label\n1,1,1\n"),
    "DFEW, UTF-16": ("DFEW", DFEW_TRAIN, "video_name,label\n1,1\n".encode("utf-16")),
    "MAFW, GBK": ("MAFW", MAFW_TRAIN, "00001.mp4 开心\n".encode("gbk")),
    "EMER, JSON": ("EMER", "a.json", b'[{"video": "a.mp4"},]'),
    "EMER, no list": ("EMER", "a.json", b'{"video": "a.mp4", "conversations": []}'),
    "EMER, other header": ("EMER", "gt-eng.csv", b"names,emotions\n"),
    "MERR, JSON": ("MERR", "MERR_fine_grained.json", b'{"a": {"pseu_emotion": "sad"'),
    "MERR, key twice": ("MERR", "MERR_fine_grained.json", b'{"a": {"b": 1, "b": 2}}'),
    "MERR, no object": ("MERR", "MERR_fine_grained.json", b'["a"]'),
    "MERR, NaN": ("MERR", "MERR_fine_grained.json", b'{"a": {"pseu_emotion": NaN}}'),
    "MERR, too deep": ("MERR", "MERR_fine_grained.json", b'{"a": ' * 100_000),
    "RAVDESS, no clip": ("RAVDESS", "Actor_01/01-01-05-01-02-01-01.txt", b""),
    "CREMAD, no clip": ("CREMAD", "VideoFlash/1001_DFA_ANG_XX.txt", b""),
    "MELD, header": ("MELD", "train_sent_emo.csv", b"Utterance,Emotion\n"),
    "MER, header": ("MER", "track1_train_disdim.csv", b"name,emotion\n"),
    "MER, no table": ("MER", "track1_train_disdim.csv", None),
    "Clips, no clip": ("Clips", "notes.txt", b""),
}


@pytest.mark.parametrize("damage", LABELS)
def test_labels(tmp_path: Path, refused: Refused, damage: str) -> None:
    corpus, place, content = LABELS[damage]
    root = tmp_path / "root"
    file = root / place
    file.parent.mkdir(parents=True)
    for folder in {"DFEW": ["Clip/original"], "MAFW": ["clips"]}.get(corpus, []):
        (root / folder).mkdir(parents=True)
    if content is not None:
        file.write_bytes(content)
    at = "--data.path" if corpus == "Clips" else "--data.root"
    names = file.name if corpus in ("DFEW", "MAFW", "EMER", "MERR", "MELD", "MER") else str(root)
    refused("inspect_data", "--data", corpus, at, str(root), "--output", str(tmp_path / "out"), names=names)


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b"{}", b'{"war": "high"}', b'{"war": NaN}', b'{"war": 1, "war": 2}']
)
def test_metrics(tmp_path: Path, refused: Refused, content: bytes) -> None:
    (tmp_path / "run" / "test").mkdir(parents=True)
    (tmp_path / "run" / "test" / "metrics.json").write_bytes(content)
    for place in ("run", "run/test"):
        (tmp_path / place / "run.json").write_text('{"seconds": 1.0}')
    arguments = ["--output", str(tmp_path / "out"), "--runs", f"{{run: {tmp_path}/run}}"]
    refused("summarize", *arguments, names="metrics.json")


@pytest.mark.parametrize("grounding", ["0.5", "{}", '{"grounded": 0.5}', '{"grounded": {"value": "high"}}', "[1]"])
def test_grounding_in_metrics(tmp_path: Path, refused: Refused, grounding: str) -> None:
    shares = dict.fromkeys(("war", "uar", "eea", "epc", "fcr", "num_samples", "unknown_answers", "judge_failures"), 1)
    for place in ("run", "run/test"):
        write_json(tmp_path / place / "run.json", {"seconds": 1.0})
    content = json.dumps(shares).replace("}", f', "grounding": {grounding}}}')
    (tmp_path / "run/test/metrics.json").write_text(content)
    refused("summarize", "--output", str(tmp_path / "out"), "--runs", f"{{run: {tmp_path}/run}}", names="metrics.json")


@pytest.mark.parametrize("command", ["compare", "report"])
@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b"{}", b'{"clips": [3]}', b'{"clips": {"media": 1}}', b"\xff\xfe"]
)
def test_truth(tmp_path: Path, refused: Refused, command: str, content: bytes) -> None:
    row = {"id": "1", "target": "fear", "prediction": "fear", "format": 1, "accuracy": 1, "explanation": None}
    write_rows(tmp_path / "a.jsonl", [row | {"sentences": [], "taxonomy": "dfew", "media": "1.mp4"}])
    file = tmp_path / "truth.json"
    file.write_bytes(content)
    own = str(tmp_path / "a.jsonl")
    predictions = json.dumps({"a": own, "b": own} if command == "compare" else [own])
    refused(
        command, "--predictions", predictions, "--output", str(tmp_path / "out"), "--truth", str(file), names="truth"
    )


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt"])
def test_texts_of_tiny_models(tmp_path: Path, refused: Refused, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"text": "caf\xe9"}')
    refused("tiny", "--output", str(tmp_path / "out"), "--texts", str(tmp_path / name), names=name)


MODELS: dict[str, tuple[str, bytes | None]] = {
    "no configuration": ("config.json", None),
    "empty configuration": ("config.json", b""),
    "configuration is no object": ("config.json", b"[1]"),
    "configuration is no JSON": ("config.json", b'{"model_type": "roberta",'),
    "another architecture": ("config.json", b'{"model_type": "pacman"}'),
    "no weights": ("model.safetensors", None),
    "empty weights": ("model.safetensors", b""),
    "cut weights": ("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"),
    "pickled weights": ("model.safetensors", b"\x80\x04K\x01."),
    "tokenizer is no JSON": ("tokenizer.json", b"{"),
    "tokenizer of another form": ("tokenizer.json", b"[1]"),
    "tokenizer settings are no object": ("tokenizer_config.json", b"[1]"),
    "tokenizer settings are no JSON": ("tokenizer_config.json", b"{"),
    "index is no object": ("model.safetensors.index.json", b"[1]"),
    "index without places": ("model.safetensors.index.json", b'{"metadata": {}}'),
    "index with wrong places": ("model.safetensors.index.json", b'{"metadata": {}, "weight_map": {"a": 3}}'),
    "index leads out": (
        "model.safetensors.index.json",
        b'{"metadata": {}, "weight_map": {"a": "../../x.safetensors"}}',
    ),
    "index is no JSON": ("model.safetensors.index.json", b"{"),
}


def damaged(models: Path, part: str, tmp_path: Path, damage: str) -> Path:
    """A copy of one of the tiny models with one file damaged."""
    directory = tmp_path / "models"
    shutil.copytree(models, directory)
    name, content = MODELS[damage]
    file = directory / part / name
    if "index" in damage:
        (directory / part / "model.safetensors").unlink()
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_bytes(content)
    return directory


@pytest.mark.parametrize("damage", MODELS)
def test_verifiers(tmp_path: Path, tiny_models: Path, refused: Refused, damage: str) -> None:
    (tmp_path / "good.jsonl").write_bytes(line())
    verifier = damaged(tiny_models, "verifier", tmp_path, damage) / "verifier"
    options = f"--completions {tmp_path}/good.jsonl --taxonomy dfew --output {tmp_path}/out --verifier {verifier}"
    refused("score", *options.split(" "), names=str(verifier))


def parts() -> Iterator[tuple[str, str]]:
    for part in ("vision", "audio", "language_model"):
        has_tokenizer = part == "language_model"
        yield from ((part, damage) for damage in MODELS if has_tokenizer or not damage.startswith("tokenizer"))


@pytest.mark.parametrize(("part", "damage"), list(parts()))
def test_backbones(tmp_path: Path, tiny_models: Path, refused: Refused, part: str, damage: str) -> None:
    directory = damaged(tiny_models, part, tmp_path, damage)
    (tmp_path / "a.mp4").write_bytes(b"")
    arguments = [f"--model.backbone.{name}={directory}/{name}" for name in ("vision", "audio", "language_model")]
    arguments += ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}/run"]
    composed = ["-c", str(ROOT / "configs/backbone/composed.yaml"), "--data=Clips", f"--data.path={tmp_path}"]
    refused("predict", *composed, *arguments, names=str(directory / part))


STEERING = "\x1b]0;title\x07\x1b[2J\u202e"


@pytest.mark.parametrize("command", ["compare", "alarms", "report", "verifier_effect", "judge", "agreement"])
def test_nothing_in_a_file_steers_the_terminal(
    tmp_path: Path, arguments_for: Any, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    file = tmp_path / "odd.jsonl"
    names = {name: PREDICTION[name] + STEERING for name in ("id", "completion", "media", "judge")}
    told = [{"text": "He frowns." + STEERING, "emotions": ["anger"], "probabilities": {"anger": 0.9, STEERING: 0.1}}]
    file.write_bytes(line(**names, dataset=STEERING, failure=STEERING, sentences=told, **{STEERING: STEERING}))
    (tmp_path / "good.jsonl").write_bytes(line())
    arguments = [argument.replace("good.jsonl", "odd.jsonl") for argument in arguments_for(command, file)]
    assert main.main(arguments) in (0, 2)
    printed = capsys.readouterr()
    allowed = {"\n", "\r"}
    assert {character for character in printed.out + printed.err if not character.isprintable()} <= allowed


NUMBERS = [
    "synthesize --layout dfew --output {out} --num_clips 10 --seed -5",
    "synthesize --layout dfew --output {out} --num_clips 10 --num_workers -1",
    "synthesize --layout dfew --output {out} --num_clips 10 --duration_seconds .inf",
    "inspect_data --data Clips --data.path {out} --num_workers 0",
    "inspect_data --data Clips --data.path {out} --data.batch_size 0",
    "inspect_data --data Clips --data.path {out} --data.num_workers -1",
]


@pytest.mark.parametrize("command", NUMBERS)
def test_numbers(tmp_path: Path, refused: Refused, command: str) -> None:
    option = command.split(" ")[-2].rpartition(".")[2].strip("-")
    refused(*command.format(out=tmp_path / "out").split(" "), names=option)
    assert not (tmp_path / "out").exists()


def test_bytes_that_are_no_text(refused: Refused) -> None:
    folder = os.fsdecode("/data/我的".encode("gb18030"))
    refused("predict", "--data", "Clips", "--data.path", folder, names="/data/我的: these bytes are no UTF-8")


def test_what_is_no_regular_file_is_read(
    tmp_path: Path, arguments_for: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fifo = tmp_path / "fifo.jsonl"
    os.mkfifo(fifo)
    writer = Thread(target=fifo.write_bytes, args=(line(),), daemon=True)
    writer.start()
    assert main.main(arguments_for("alarms", fifo)) == 0
    writer.join()
    assert main.main(["alarms", "-c", f"{{predictions: ['{tmp_path}/good.jsonl'], output: '{tmp_path}/out'}}"]) == 0
