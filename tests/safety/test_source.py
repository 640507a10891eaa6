"""What may not stand in the source: calls that run what they read."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    p for d in ("datamodules", "lightning_modules", "callbacks", "tools") for p in (ROOT / d).rglob("*.py")
)

OWN_PIPES = {"datamodules/isolation.py"}
"""Unpickle what the process' own children send."""

_FORBIDDEN = {
    "eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "torch.hub.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load", "tempfile.mktemp",
    "shutil.unpack_archive", "tarfile.open", "marshal.loads", "shelve.open", "pandas.read_pickle", "pd.read_pickle",
}  # fmt: skip


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _constant(call: ast.Call, argument: str) -> object:
    """The value of a keyword argument; what is no constant, or not given, is None."""
    value = next((keyword.value for keyword in call.keywords if keyword.arg == argument), None)
    return value.value if isinstance(value, ast.Constant) else None


def problems(source: str) -> Iterator[str]:
    """Calls of a source that could run what they read."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        name = _name(call.func)
        owner, _, method = name.rpartition(".")
        if name in _FORBIDDEN or (name.startswith("zipfile.") and method.startswith("extract")):
            yield f"{call.lineno}: {name}"
        elif name == "torch.load" and _constant(call, "weights_only") is not True:
            yield f"{call.lineno}: torch.load without weights_only=True"
        elif method in ("load", "fromfile") and owner in ("np", "numpy") and _constant(call, "allow_pickle"):
            yield f"{call.lineno}: pickled arrays"
        elif _constant(call, "shell") is True:
            yield f"{call.lineno}: a shell"
        elif (
            method in ("from_pretrained", "from_config")
            and owner.startswith("Auto")
            and _constant(call, "trust_remote_code") is not False
        ):
            yield f"{call.lineno}: {name} without trust_remote_code=False"


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_nothing_that_runs_what_it_reads(path: Path) -> None:
    allowed = {"pickle.loads"} if str(path.relative_to(ROOT)) in OWN_PIPES else set()
    found = [problem for problem in problems(path.read_text()) if problem.split(": ")[1] not in allowed]
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "AutoTokenizer.from_pretrained(path)",
        "AutoModel.from_config(config, trust_remote_code=trusted)",
        "pickle.load(file)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "yaml.load(text, Loader)",
        "eval(text)",
    ],
)
def test_such_calls_are_found(source: str) -> None:
    assert len(list(problems(source))) == 1
