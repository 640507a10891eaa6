"""What is used of libraries without being promised: all of it is in docs/upgrading.md, and each does what is expected.

After an upgrade, a failing test names what has changed.
"""

import ast
import asyncio
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from lightning.pytorch.strategies import ModelParallelStrategy
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from transformers import AttentionInterface, Qwen2Config, Qwen2Model, WhisperConfig

ROOT = Path(__file__).parents[1]
PRODUCT = ("datamodules", "lightning_modules", "callbacks", "tools", "main")
DOCUMENT = ROOT / "docs" / "upgrading.md"
INTERNAL = re.compile(
    r"transformers\.(?!utils\b)|lightning\.(pytorch\.(overrides|loops|trainer)|fabric)\b|liger_kernel\b"
    r"|tensorboard\.(compat|plugins)\b|.*(?<![a-z])_[a-z]"
)
"""Modules that their libraries do not document."""

DOCUMENTED = {"_asdict", "_exit"}
"""Names of Python's own, which are public in spite of their underscore."""

SETTABLE = {
    *("data", "grad", "requires_grad", "training", "fp32_precision", "checkpoint_io"),  # torch, Lightning
    *("chat_template", "pad_token", "generation_config", "keys", "values"),  # transformers
    *("decoder", "post_processor", "pre_tokenizer"),  # tokenizers
    *("options", "skip_frame", "thread_count"),  # PyAV
    "propagate",  # logging
}
"""Attributes of objects of libraries that are there to be set."""

SETATTR = {
    "callbacks/curves.py",
    "callbacks/inspection/hparams.py",
    "datamodules/emotions.py",
    "tools/estimate/skeleton.py",
}
"""Where `setattr` is called: loggers' methods that may fail, a protobuf message, a frozen dataclass' own, ours."""

Use = tuple[str, str]
"""A name, and the file that uses it."""


def files() -> dict[str, ast.Module]:
    paths = [path for part in PRODUCT[:-1] for path in sorted((ROOT / part).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in (*paths, ROOT / "main.py")}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def is_field(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign | ast.AnnAssign)


@dataclass
class Own:
    """What the product itself defines: attributes of its objects; functions and classes."""

    attributes: set[str] = field(default_factory=set)
    definitions: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, trees: list[ast.Module]) -> Self:
        own = cls()
        for node in (node for tree in trees for node in ast.walk(tree)):
            match node:
                case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                    own.attributes.add(name)
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    own.definitions.add(name)
                case ast.ClassDef(name=name, body=body):
                    own.definitions.add(name)
                    fields = (n.target if isinstance(n, ast.AnnAssign) else n.targets[0] for n in body if is_field(n))
                    own.attributes |= {ast.unparse(target) for target in fields}
        return own


def foreign_uses(file: str, tree: ast.Module, own: Own) -> Iterator[Use]:
    """Underscore names and undocumented modules of libraries, and attributes of their objects that are replaced."""
    known = own.attributes | own.definitions
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=value, attr=name) if is_private(name) and name not in DOCUMENTED:
                # Of other objects always: no class of the product shows its own names with an underscore to another.
                if name not in known or ast.unparse(value) not in ("self", "cls"):
                    yield name, file
            case ast.Attribute(value=value, attr=name, ctx=ast.Store() | ast.Del()):
                if ast.unparse(value) not in ("self", "cls") and name not in own.attributes | SETTABLE:
                    yield name, file
            case ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[_, ast.Constant(value=name), *_]):
                if is_private(name) and name not in known:
                    yield name, file
            case ast.Call(func=ast.Name(id="setattr" | "delattr") | ast.Attribute(attr="__setattr__" | "__delattr__")):
                if file not in SETATTR:
                    yield ast.unparse(node), file
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] not in PRODUCT:
                if INTERNAL.match(module) or any(is_private(alias.name) for alias in node.names):
                    yield module, file
            case ast.Import():
                yield from ((alias.name, file) for alias in node.names if INTERNAL.match(alias.name))


def names_in_class(owner: type) -> set[str]:
    try:
        source = inspect.getsource(owner)
    except (OSError, TypeError):  # of C, or made by a decorator
        return set()
    return {name for pair in re.findall(r"\b(?:self|cls)\.(_[a-z]\w*)|def (_[a-z]\w*)", source) for name in pair}


def inherited_uses(file: str, classes: list[type]) -> Iterator[Use]:
    """Underscore names that a class shares with a library's class that it inherits from."""
    for owner in classes:
        for base in owner.__mro__[1:]:
            if base.__module__.partition(".")[0] not in (*PRODUCT, "builtins", "abc", "typing"):
                yield from ((name, file) for name in (names_in_class(owner) & names_in_class(base)) - {""})


def classes_of(file: str) -> list[type]:
    module = importlib.import_module(file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    return [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]


def rows() -> dict[str, set[str]]:
    """Names in the document, and where it says that each is used."""
    found = {}
    for line in DOCUMENT.read_text().splitlines():
        row = re.match(r"\| \S+ \| `([\w.]+)`[^|]*\| ([^|]+) \|", line)
        if row is not None:
            found[row[1]] = set(re.findall(r"`([^`]+)`", row[2]))
    return found


@pytest.mark.e2e
def test_everything_private_is_listed() -> None:
    trees = files()
    own = Own.of(list(trees.values()))
    found: dict[str, set[str]] = {}
    for file, tree in trees.items():
        for name, where in (*foreign_uses(file, tree, own), *inherited_uses(file, classes_of(file))):
            found.setdefault(name, set()).add(where)
    assert found == rows()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("model.config._attn = 1", "_attn"),
        ("super()._own(1)", "_own"),
        ("import torch._dynamo", "torch._dynamo"),
        ("from lightning.pytorch.loops.fit_loop import _FitLoop", "lightning.pytorch.loops.fit_loop"),
        ("from os import _exit", "os"),
        ("getattr(optimizer, '_step', None)", "_step"),
        ("PreTrainedModel.from_pretrained = mine", "from_pretrained"),
        ("del layer.forward", "forward"),
        ("setattr(module, name, value)", "setattr(module, name, value)"),
        ("model.own = self._own", None),
        ("for parameter in parameters:\n    parameter.grad = None", None),
        ("from transformers import Cache\nfrom lightning_modules import x", None),
    ],
)
def test_private_uses_are_found(code: str, name: str | None) -> None:
    tree = ast.parse(code)
    own = Own(attributes={"own", "_own"}, definitions={"forward"})
    assert [use for use, _ in foreign_uses("file.py", tree, own)] == ([] if name is None else [name])


def attention_parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 8, generator=generator, requires_grad=True) for _ in range(3))
    return query, key, value, query @ key.mT / 8**0.5


def flash() -> None:
    query, key, value, scores = attention_parts()
    output, log_sum_exp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, is_causal=False, attn_mask=None, scale=8**-0.5
    )
    torch.testing.assert_close(output, scores.softmax(-1) @ value)
    torch.testing.assert_close(log_sum_exp, scores.logsumexp(-1))


def flash_backward() -> None:
    query, key, value, scores = attention_parts()
    output = scores.softmax(-1) @ value
    options = {"is_causal": False, "attn_mask": None, "scale": 8**-0.5, "dropout_p": 0.0}
    tensors = [tensor.detach() for tensor in (query, key, value, output, scores.logsumexp(-1))]
    gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        torch.ones_like(output), *tensors, **options
    )
    torch.testing.assert_close(gradients, torch.autograd.grad(output.sum(), [query, key, value]))


def linear_pointwise() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    rows, weight, bias = torch.randn(2, 3, 5), torch.randn(4, 5), torch.randn(4)
    for own, given in ((bias, bias), (torch.zeros(4), None)):
        output = torch.ops.mkldnn._linear_pointwise(rows, weight, given, "none", [], "")
        torch.testing.assert_close(output, rows @ weight.T + own)
    transposed = torch.ops.mkldnn._linear_pointwise(rows[0].mT, rows[0].mT, None, "none", [], "")
    torch.testing.assert_close(transposed, rows[0].mT @ rows[0])


def class_of_a_layer() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = nn.Sequential(nn.Linear(3, 2))
    before, weights = model(torch.ones(1, 3)), list(model.parameters())
    model[0].__class__ = Doubled
    assert torch.equal(model(torch.ones(1, 3)), 2 * before)
    assert all(new is old for new, old in zip(model.parameters(), weights, strict=True))


def maybe_mark_dynamic() -> None:
    def num_programs(mark: bool) -> int:
        programs = []

        def backend(graph: Any, inputs: Any) -> Any:
            programs.append(graph)
            return graph.forward

        double = torch.compile(lambda tensor: tensor * 2, backend=backend, dynamic=False, fullgraph=True)
        for size in (5, 7, 9):
            rows = torch.ones(size, 3)
            if mark:
                torch._dynamo.maybe_mark_dynamic(rows, (0,))
            double(rows)
        return len(programs)

    assert num_programs(mark=True) == 1 and num_programs(mark=False) == 3


def version() -> None:
    tensor = torch.zeros(2)
    before = tensor._version
    assert (tensor + 1).sum() == 2 and tensor._version == before
    tensor.copy_(torch.ones(2))
    assert tensor._version > before


def apply() -> None:
    class Watched(nn.Linear):
        def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Watched":
            calls.append(fn(torch.empty(0)).dtype)
            return self

    calls: list[torch.dtype] = []
    parent = nn.Sequential(Watched(2, 2))
    parent.half().to(torch.float64).bfloat16()
    assert calls == [torch.float16, torch.float64, torch.bfloat16] and parent[0].weight.dtype == torch.float32


def attention_implementation() -> None:
    def zeros(module: nn.Module, query: Tensor, *tensors: Any, **arguments: Any) -> tuple[Tensor, None]:
        given.append(arguments["mine"])
        return torch.zeros_like(query).transpose(1, 2), None

    given: list[str] = []
    AttentionInterface.register("erv_upgrade_test", zeros)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "vocab_size": 5}
    model = Qwen2Model(Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=1))
    before = model.config._attn_implementation
    ids = torch.tensor([[1, 2]])
    model.config._attn_implementation = "erv_upgrade_test"
    model(ids, mine="argument")
    model.config._attn_implementation = before
    model(ids)
    assert before == "sdpa" and given == ["argument"] * 2


def whisper_encoder() -> None:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=8,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=8,
        max_source_positions=4,
        num_mel_bins=3,
    )
    assert WhisperEncoder(config)(torch.zeros(1, 3, 8)).last_hidden_state.shape == (1, 4, 8)


def causal_models() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["qwen2"] == "Qwen2ForCausalLM"


def data_parallel_size() -> None:
    assert ModelParallelStrategy()._data_parallel_size == "auto"
    assert ModelParallelStrategy(data_parallel_size=3)._data_parallel_size == 3


QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class ValidationsAhead(Callback):
    """What Lightning says after each batch, and which batches a validation follows."""

    def __init__(self) -> None:
        self.said: list[bool] = []
        self.validated: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.said.append(trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated.append(len(self.said))


def validation_ahead() -> None:
    watch = ValidationsAhead()
    Trainer(
        **QUIET,
        max_epochs=1,
        limit_train_batches=5,
        limit_val_batches=1,
        val_check_interval=2,
        enable_checkpointing=False,
        callbacks=[watch],
    ).fit(BoringModel())
    assert watch.said == [False, True, False, True, False] and watch.validated == [2, 4]


class Loader(DataLoader):
    """Notes the states that it is given."""

    loaded: list[dict[str, int]]

    def state_dict(self) -> dict[str, int]:
        return {"place": 2}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.loaded.append(state)


class CountingFirst(BoringModel):
    """Its schedule asks for the number of steps, so that the loader is made before a checkpoint is read."""

    def train_dataloader(self) -> DataLoader:
        return Loader(RandomDataset(32, 4))

    def configure_optimizers(self) -> Any:
        assert self.trainer.estimated_stepping_batches
        return super().configure_optimizers()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        file = Path(self.trainer.default_root_dir) / "two.ckpt"
        if batch_idx == 1 and not file.exists():
            self.trainer.save_checkpoint(file)

    def on_train_start(self) -> None:
        before = list(Loader.loaded)
        self.trainer.fit_loop._load_combined_loader_states()
        self.seen = before, Loader.loaded


def loader_states(tmp_path: Path) -> None:
    Loader.loaded = []
    options = {**QUIET, "default_root_dir": tmp_path, "limit_val_batches": 0, "enable_checkpointing": False}
    Trainer(**options, max_epochs=2, max_steps=2).fit(CountingFirst())
    module = CountingFirst()
    Trainer(**options, max_epochs=2).fit(module, ckpt_path=tmp_path / "two.ckpt")
    assert module.seen[0] == [], "Lightning loads it by itself now: run_checkpoint.py need not"
    assert module.seen[1] == [{"place": 2}]


def unrepeated_sampler() -> None:
    from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler

    shares = [UnrepeatedDistributedSampler(range(5), num_replicas=2, rank=rank, shuffle=False) for rank in (0, 1)]
    assert [list(share) for share in shares] == [[0, 2, 4], [1, 3]]


def full_key() -> None:
    OmegaConf.register_new_resolver("place", lambda *, _node_: _node_._get_full_key(None), replace=True)
    try:
        assert OmegaConf.create({"logger": {"keys": ["x", "${place:}"]}}).logger["keys"][1] == "logger.keys[1]"
    finally:
        OmegaConf.clear_resolver("place")


def liger_loss() -> None:
    ops = pytest.importorskip("liger_kernel.ops", reason="Liger's kernel is an optional package")
    arguments = list(inspect.signature(ops.LigerCrossEntropyFunction.forward).parameters)
    assert arguments[1:8] == [
        "_input", "target", "weight", "ignore_index", "lse_square_scale", "label_smoothing", "reduction",
    ]  # fmt: skip


def session_events() -> None:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    assert Event(step=3, session_log=SessionLog(status=SessionLog.START)).session_log.status == SessionLog.START


def summaries() -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary

    assert Summary(value=[Summary.Value(tag="x")]).value[0].tag == "x"


def hparams_plugin() -> None:
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    experiment = api_pb2.Experiment(metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag="val/fcr"))])
    content = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(experiment=experiment))
    assert content.plugin_data.plugin_name == "hparams" and metadata.EXPERIMENT_TAG and metadata.SESSION_END_INFO_TAG


def forward_of_a_module() -> None:
    layer, seen = nn.Linear(2, 2), []
    layer.register_forward_hook(lambda module, args, result: seen.append(result))
    layer.forward = lambda rows: "replaced"
    assert layer(torch.zeros(1, 2)) == "replaced" and seen == ["replaced"]
    del layer.forward
    assert layer(torch.zeros(1, 2)).shape == (1, 2)


def event_writer(tmp_path: Path) -> None:
    class Noting:
        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_: calls.append(name)

    calls: list[str] = []
    writer = SummaryWriter(tmp_path)
    writer.file_writer.event_writer.close()
    writer.file_writer.event_writer = Noting()
    writer.add_scalar("loss", 1.0, 1)
    writer.flush()
    writer.close()
    assert calls[:2] == ["add_event", "flush"] and calls[-1] == "close"


def accumulation(tmp_path: Path) -> None:
    class Accumulates(BoringModel):
        def setup(self, stage: str) -> None:
            self.trainer.accumulate_grad_batches = 4

    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, limit_train_batches=8, limit_val_batches=0, default_root_dir=tmp_path, **options)
    trainer.fit(Accumulates())
    assert trainer.global_step == 2 and trainer.estimated_stepping_batches == 2


def uploads_only(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
        import gradio

        with gradio.Blocks(analytics_enabled=False) as blocks:
            gradio.File().upload(lambda file: None, blocks.children[0])
        (tmp_path / "other").write_text("secret")
        given = {"path": str(tmp_path / "other"), "meta": {"_type": "gradio.FileData"}}
        asyncio.run(blocks.process_api(blocks.fns[0], [given]))  # where this raises, the row can go
        blocks.has_launched = True
        with pytest.raises(gradio.exceptions.InvalidPathError):
            asyncio.run(blocks.process_api(blocks.fns[0], [given]))


CHECKS: dict[str, Callable[..., None]] = {
    "_scaled_dot_product_flash_attention_for_cpu": flash,
    "_scaled_dot_product_flash_attention_for_cpu_backward": flash_backward,
    "_linear_pointwise": linear_pointwise,
    "_dynamo": maybe_mark_dynamic,
    "_version": version,
    "_apply": apply,
    "_attn_implementation": attention_implementation,
    "transformers.models.whisper.modeling_whisper": whisper_encoder,
    "transformers.models.auto.modeling_auto": causal_models,
    "_data_parallel_size": data_parallel_size,
    "_load_combined_loader_states": loader_states,
    "_should_check_val_fx": validation_ahead,
    "_data_fetcher": validation_ahead,
    "lightning.pytorch.overrides.distributed": unrepeated_sampler,
    "_get_full_key": full_key,
    "liger_kernel.ops": liger_loss,
    "tensorboard.compat.proto.event_pb2": session_events,
    "tensorboard.compat.proto.summary_pb2": summaries,
    "tensorboard.plugins.hparams": hparams_plugin,
    "forward": forward_of_a_module,
    "__class__": class_of_a_layer,
    "accumulate_grad_batches": accumulation,
    "event_writer": event_writer,
    "has_launched": uploads_only,
}


@pytest.mark.e2e
@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.filterwarnings("ignore")
def test_private_interface(name: str, tmp_path: Path) -> None:
    check = CHECKS[name]
    check(tmp_path) if inspect.signature(check).parameters else check()


@pytest.mark.unit
def test_each_has_a_test() -> None:
    assert list(CHECKS) == list(rows())


@pytest.mark.unit
def test_cudnn_attention_stays_off() -> None:
    """Until the table says otherwise, by what a Hopper GPU showed."""
    listed = re.search(r"^\| torch (\d+)\.(\d+) to (\d+)\.(\d+) \| cuDNN", DOCUMENT.read_text(), re.MULTILINE)
    assert listed is not None
    numbers = tuple(map(int, listed.groups()))
    installed = tuple(map(int, torch.__version__.split(".")[:2]))
    assert numbers[:2] <= installed <= numbers[2:], f"torch {torch.__version__} is not listed in {DOCUMENT.name}"
    assert not torch.backends.cuda.cudnn_sdp_enabled()
