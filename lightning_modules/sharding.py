"""Trained weights in shards over the processes (FSDP2), whole only while they compute.

Processes sample completions of different lengths and learn from different numbers of them. Weights that are gathered
layer by layer, whenever a layer runs, would let a process that has more to do wait for others that are done. So all of
a policy's weights are gathered before a rollout, an update or an evaluation, and given back after it: every process
communicates the same number of times, whatever it computes, and code may run any piece of a layer by itself. Gradients
are averaged once per update, in float32. At rest a process holds its shard of weights, gradients and optimizer states:
this saves the memory of optimizer states throughout, and that of weights and gradients between the steps.

Shards of trained weights are float32, whatever type they were loaded in, and gathered in that type (decision 44). So a
policy in bfloat16 computes in bfloat16 and keeps what a small learning rate adds: 12 bytes per weight over all
processes, and 4 (weight and gradient) on each while it computes.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, distribute_tensor
from torch.optim import Optimizer
from transformers import GradientCheckpointingLayer


class _Unit(nn.Module):
    """Parameters that are gathered together. FSDP hooks into this module's forward pass, which nobody calls."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Shards:
    """The shards of some of a module's parameters: one unit per transformers layer, and one for all the rest.

    Args:
        module: the module. Its parameters become `DTensor`s, split along their first dimension.
        parameters: those of its parameters to shard; the others stay whole on every process.
        mesh: the processes: all of them, or copies × shards.
    """

    def __init__(self, module: nn.Module, parameters: Iterable[nn.Parameter], mesh: DeviceMesh) -> None:
        self._mesh, self.module = mesh, module
        self._units: list[FSDPModule] = []
        chosen = set(parameters)
        layers = [child for child in module.modules() if isinstance(child, GradientCheckpointingLayer)]
        for part in [*layers, module]:
            everything = set(part.parameters())  # shards of an earlier unit are others than those chosen
            if everything & chosen:
                self._units.append(_shard(part, everything & chosen, everything - chosen, mesh))
        self._places = list(_sharded(module))

    def copy_to(self, other: "Shards") -> None:
        """Fill what has no values yet in the shards of another module with copies of these, by name.

        Args:
            other: those of a `Backbone.reference(empty=True)`, over the same processes.
        """
        filled = dict(self.module.named_parameters())
        copies = {
            parameter: nn.Parameter(filled[name].detach().to(parameter.dtype, copy=True), requires_grad=False)
            for name, parameter in other.module.named_parameters()
            if parameter.is_meta
        }
        for module, name in _sharded(other.module, with_duplicates=True):
            parameter = module.get_parameter(name)
            module.register_parameter(name, copies.get(parameter, parameter))

    def gather(self) -> None:
        """Make all parameters whole on every process; does nothing where they are. Every process calls it."""
        # What inference mode makes could not be trained afterwards.
        with torch.inference_mode(False), torch.no_grad():
            for unit in self._units:
                unit.unshard()

    def release(self) -> None:
        """Keep this process' shards only; gradients of the whole parameters stay until `reduce_gradients`."""
        for unit in self._units:
            unit.reshard()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Parameters are whole while the block runs. Every process enters it."""
        self.gather()
        try:
            yield
        finally:
            self.release()

    def reduce_gradients(self) -> None:
        """Give each shard its part of the gradients' mean over the processes, and release the whole parameters.

        Every process calls it, with or without a gradient. A parameter that got none anywhere keeps None, as on one
        process.
        """
        whole = [module.get_parameter(name) for module, name in self._places]
        gradients = [parameter.grad for parameter in whole]
        for parameter in whole:
            parameter.grad = None
        self.release()
        device = whole[0].device
        reached = torch.tensor([gradient is not None for gradient in gradients], dtype=torch.int32, device=device)
        torch.distributed.all_reduce(reached, torch.distributed.ReduceOp.MAX)
        for i, (is_reached, (module, name)) in enumerate(zip(reached.tolist(), self._places, strict=True)):
            if is_reached:
                shard, gradient = module.get_parameter(name), gradients[i]
                gradients[i] = None  # frees each whole gradient when its shard is made
                if gradient is None:
                    gradient = torch.zeros(shard.shape, dtype=shard.dtype, device=shard.device)
                share = gradient.to(shard.dtype).div_(self._mesh.size())
                mean = DTensor.from_local(share, self._mesh, [Partial()] * self._mesh.ndim)
                shard.grad = mean.redistribute(placements=shard.placements)


def _shard(part: nn.Module, own: set[nn.Parameter], others: set[nn.Parameter], mesh: DeviceMesh) -> FSDPModule:
    """Shard a unit: what is trained in float32, gathered in the type that it has now."""
    lowest = min((parameter.dtype for parameter in own), key=lambda dtype: dtype.itemsize)
    for parameter in own:
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return fully_shard(
        _Unit(part), mesh=mesh, ignored_params=others, mp_policy=MixedPrecisionPolicy(param_dtype=lowest)
    )


@contextmanager
def gathered(*shards: Shards | None) -> Iterator[None]:
    """Parameters are whole while the block runs, where they are sharded at all. Every process enters it."""
    present = [one for one in shards if one is not None]
    for one in present:
        one.gather()
    try:
        yield
    finally:
        for one in present:
            one.release()


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece. Every process calls it for a sharded one."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def exportable(module: nn.Module, here: bool) -> Iterator[None]:
    """Have whole weights while the block runs, to be written. Every process enters it.

    Args:
        module: sharded, by `Shards` or by DeepSpeed's ZeRO-3, or not.
        here: whether this process wants them; the others take part only.
    """
    partitioned = [parameter for parameter in module.parameters() if hasattr(parameter, "ds_id")]
    if partitioned:
        from deepspeed.zero import GatheredParameters  # an optional dependency

        with GatheredParameters(partitioned):
            yield
        return
    places = list(_sharded(module, with_duplicates=True))
    shards = [child.get_parameter(name) for child, name in places]
    copies: dict[nn.Parameter, nn.Parameter] = {}
    for shard in dict.fromkeys(shards):
        full = shard.detach().full_tensor()
        if here:
            copies[shard] = nn.Parameter(full.cpu(), requires_grad=shard.requires_grad)
    for (child, name), shard in zip(places, shards, strict=True):
        child.register_parameter(name, copies.get(shard, shard))
    try:
        yield
    finally:
        for (child, name), shard in zip(places, shards, strict=True):
            child.register_parameter(name, shard)


def _sharded(module: nn.Module, with_duplicates: bool = False) -> Iterator[tuple[nn.Module, str]]:
    """Where a module's sharded parameters stand, owner and name; tied ones once, unless all are wanted."""
    seen: set[nn.Parameter] = set()
    for child in module.modules():
        for name, parameter in child.named_parameters(recurse=False, remove_duplicate=False):
            if isinstance(parameter, DTensor) and (with_duplicates or parameter not in seen):
                seen.add(parameter)
                yield child, name


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's `ModelParallelStrategy`, for modules that shard their trained weights over `shard_mesh`.

    Its checkpoints are those of any other strategy, one file with the trained weights and the optimizer states whole:
    a run can go on under another strategy or on another number of processes.

    Args:
        shard_over: processes that share one set of shards, e.g. those of a node, beside as many copies of it as there
            are such groups (HSDP): weights are then gathered within a node, and gradients exchanged between nodes.
            None: all processes.
        timeout_seconds: how long a process waits for the others in one exchange before the run fails.
        process_group_backend: "nccl" or "gloo"; None: by the device.
    """

    def __init__(
        self,
        shard_over: int | None = None,
        timeout_seconds: float = 1800.0,
        process_group_backend: str | None = None,
    ) -> None:
        super().__init__(
            data_parallel_size="auto",
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timedelta(seconds=timeout_seconds),
        )
        self.shard_over = shard_over
        self._shard_mesh: DeviceMesh | None = None

    @property
    def shard_mesh(self) -> DeviceMesh:
        """The processes that weights are sharded over: one-dimensional, or copies × shards."""
        assert self._shard_mesh is not None, "made with the environment"
        return self._shard_mesh

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        # Lightning's "auto" is the number of nodes.
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        size = self.world_size if self.shard_over is None else self.shard_over
        if not 1 <= size <= self.world_size or self.world_size % size:
            raise ValueError(
                f"trainer.strategy.shard_over is {size}, of {self.world_size} processes. Expected a number that "
                "divides them, e.g. that of the devices of a node."
            )
        shape, names = (size,), ("shard",)
        if size < self.world_size:
            shape, names = (self.world_size // size, size), ("copy", "shard")
        self._shard_mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=names)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The trained weights, whole, on the first process; nothing on the others, which take part."""
        module = self.lightning_module
        assert module is not None
        # First: it releases gathered parameters, and leaves shards to be named.
        state = module.state_dict()
        trained = {n for n, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
        return self._on_first({name: value for name, value in state.items() if name in trained})

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {name: _like(own.get(name), value) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state, whole, on the first process; nothing on the others, which take part."""
        state = optimizer.state_dict()
        slots = {index: self._on_first(slot) for index, slot in state["state"].items()}
        return {**state, "state": slots} if self.is_global_zero else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
            slots = {
                index: {name: _like(parameters[index], value) for name, value in slot.items()}
                for index, slot in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": slots})

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def _on_first(self, values: Mapping[str, Any]) -> dict[str, Any]:
        kept = {}
        for name, value in values.items():
            full = whole(value) if isinstance(value, Tensor) else value
            if self.is_global_zero:
                kept[name] = full.cpu() if isinstance(full, Tensor) else full
        return kept


def shard_mesh(strategy: Strategy) -> DeviceMesh | None:
    """The processes that a strategy wants trained weights to be sharded over; None where they stay whole."""
    return strategy.shard_mesh if isinstance(strategy, FSDP2Strategy) else None


def _like(own: Tensor | None, value: Any) -> Any:
    """A whole tensor as this process' shard of it, where its own counterpart of the same shape is one."""
    is_shard = isinstance(own, DTensor) and isinstance(value, Tensor) and not isinstance(value, DTensor)
    if not is_shard or value.shape != own.shape:
        return value
    # Each process has read the same file, and takes its part of it.
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
