"""A device that is none: its tensors say `pretended:0` and stand on the CPU; to mix them with a CPU's is an error.

So code that makes a tensor on the wrong device fails here as it does on a GPU. Run as a program, it goes through the
phases of stage 3 on tiny models of a directory, and prints JSON: phase → None, or what went wrong. In a process of its
own, as a device stays registered for good.
"""

import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten

COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default, aten.set_.source_Storage_storage_offset}
"""May have operands on both."""

INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""May have their indices on the CPU."""


class Device:
    """What PyTorch asks of a kind of device."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def _is_in_bad_fork(self) -> bool:
        return False


class Pretended(Tensor):
    """A tensor of the device, around one on the CPU."""

    elem: Tensor

    @staticmethod
    def __new__(cls, elem: Tensor) -> "Pretended":
        made = Tensor._make_wrapper_subclass(
            cls,
            elem.size(),
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            device=DEVICE,
        )
        made.elem = elem
        return made

    def tolist(self) -> Any:
        return self.elem.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("NumPy takes tensors of a CPU only.")

    __array__ = numpy

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copy = memo.get(id(self))
        if copy is None:
            copy = Pretended(self.elem.clone())
            memo[id(self)] = nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """Tensors may be made on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    has_own = any(isinstance(tensor, Pretended) for tensor in tensors)
    device = kwargs.get("device")
    if has_own and func not in COPIES:
        checked = tensors if func not in INDEXING else [args[0], *args[2:]]
        foreign = [t for t in checked if isinstance(t, Tensor) and not isinstance(t, Pretended) and t.dim() > 0]
        if foreign:
            raise RuntimeError(f"{func} meets tensors of pretended:0 and cpu, {[tuple(t.shape) for t in foreign]}")
    plain_args, plain_kwargs = tree_map(lambda t: t.elem if isinstance(t, Pretended) else t, (args, kwargs))
    if device is not None:
        plain_kwargs["device"] = torch.device("cpu")
    result = func(*plain_args, **plain_kwargs)
    returns = func._schema.returns
    if returns and returns[0].alias_info is not None and returns[0].alias_info.is_write:
        return args[0]
    is_own = has_own if device is None else torch.device(device).type == DEVICE.type
    return tree_map(lambda t: Pretended(t) if is_own and isinstance(t, Tensor) else t, result)


def phases(models: Path) -> Iterator[tuple[str, Any]]:
    """The phases of a step of stage 3, in their order; each runs when it is asked for."""
    from datamodules.batch import Clip, collate
    from lightning_modules.backbones.composed import ComposedBackbone
    from lightning_modules.backbones.interface import Sampling
    from lightning_modules.emotion_verifier import EmotionVerifier
    from lightning_modules.rl.advantages import group_advantages
    from lightning_modules.rl.losses import grpo_loss

    parts = {name: str(models / name) for name in ("vision", "audio", "language_model")}
    policy = ComposedBackbone(**parts, num_frames=2, video_grid=2, audio_pool=10)
    policy.set_trainable(["vision_projector", "audio_projector", "language_model"])
    verifier = EmotionVerifier(str(models / "verifier"))

    def clip(seed: int) -> Clip:
        frames = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        question = "Which emotion?" + " Look at the face." * seed
        return Clip(str(seed), "", frames, torch.rand(8_000 + seed), True, question, "anger")

    batch, found = collate([clip(0), clip(1)]), dict[str, Any]()

    def refuse_to_mix() -> None:
        own, other = torch.ones(2, 2, device=DEVICE), torch.ones(2, 2)
        for mix in (torch.add, torch.matmul, Tensor.add_):
            with pytest.raises(RuntimeError, match="meets tensors of pretended:0 and cpu"):
                mix(own, other)

    def move() -> None:
        found["policy"], found["batch"] = policy.to(DEVICE), batch.to(DEVICE)
        found["reference"], found["verifier"] = policy.reference(), verifier.to(DEVICE)

    def encode() -> None:
        with torch.no_grad():
            found["percept"] = policy.perceive(found["batch"])
            found["prompt"] = policy.encode(found["batch"], found["percept"])

    def sample() -> None:
        found["completions"] = policy.generate(found["prompt"], 3, Sampling(max_new_tokens=6, top_p=0.9))
        policy.texts(found["completions"])

    def score() -> None:
        verifier.read(["He shouts.", "The room is quiet."])
        rewards = torch.arange(6.0, device=DEVICE)
        found["advantages"] = group_advantages(rewards, 3)

    def reference() -> None:
        with torch.no_grad():
            prompt = found["reference"].encode(found["batch"], found["percept"])
            found["logprobs"] = found["reference"].logprobs(prompt, found["completions"])

    def update() -> None:
        optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-3)
        completions = found["completions"]
        with policy.score_in_parts(policy.encode(found["batch"], found["percept"])) as shared:
            scores = shared.score(completions, 1.0, True)
            arguments = {"reference_logprobs": found["logprobs"], "beta": 0.04, "num_completions_total": 6}
            grpo_loss(scores.logprobs, None, found["advantages"], completions.mask, **arguments).loss.backward()
            shared.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        assert float(norm) > 0 and all(p.device == DEVICE for p in policy.parameters())

    for phase in (refuse_to_mix, move, encode, sample, score, reference, update):
        yield phase.__name__, phase


def main(models: Path) -> None:
    results = {}
    with Pretending():
        for name, phase in phases(models):
            try:
                phase()
                results[name] = None
            except Exception as error:  # noqa: BLE001 - the test says it
                ours = [f for f in traceback.extract_tb(error.__traceback__) if "/site-packages/" not in f.filename]
                places = [f"{Path(f.filename).name}:{f.lineno}" for f in ours if f.filename != __file__]
                results[name] = f"{type(error).__name__}: {str(error)[:300]} [{', '.join(places[-3:])}]"
                break
    print(json.dumps(results))


if __name__ == "__main__":
    _setup_privateuseone_for_python_backend("pretended", Device())
    DEVICE = torch.device("pretended", 0)
    torch._C._set_only_lift_cpu_tensors(True)  # `new_tensor` makes a tensor on the CPU, and moves it
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.autograd.set_multithreading_enabled(False)
    main(Path(sys.argv[1]))
