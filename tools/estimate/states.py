"""Bytes of weights, gradients and optimizer states on one of several devices, in each phase of a GRPO step.

N devices; T bytes of trained weights (gradients are as large, AdamW's two moments twice as large), F of frozen ones, R
of the reference's own copy; S bytes of trained weights in float32, as fsdp2 keeps them, over M devices (all, or
`shard_over`):

    strategy      weights                       reference            gradients             moments   buckets
    one device    T + F                         R                    T                     2·T       –
    ddp           T + F                         R                    T                     2·T       T
    fsdp2         T + S/M + F in rollouts and   R + R/M while it     T + S/M in the        2·S/M     –
                  the update, else S/M + F      scores, else R/M     update, else S/M

`model.optimizer` kahan_adamw keeps three numbers of weights in 16 bits in place of two moments, adamw_8bit two bytes.
With scaled gradients (16-mixed), AdamW's step is not fused and needs T more for a moment; under fsdp2 S/M.
Source: lightning_modules/sharding.py; the defaults of Lightning's strategies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from lightning_modules.optimizer import PolicyOptimizer
from tools.estimate.shapes import Numerics

PHASES = ("towers", "sampling", "reference", "update", "optimizer step")
"""In their order; what they need is not alive together."""

Kind = Literal["one device", "ddp", "fsdp2"]
ByPhase = dict[str, float]
"""Bytes by phase."""

_FLOAT32 = 4


@dataclass(frozen=True)
class Strategy:
    """How devices share a run.

    Args:
        kind: which strategy.
        devices: N, over all nodes.
        has_buckets: under ddp, whether gradients are copied into buckets to be exchanged.
        shard_over: under fsdp2, M; None: N.
    """

    kind: Kind
    devices: int
    has_buckets: bool = True
    shard_over: int | None = None

    @classmethod
    def of(cls, trainer: Mapping[str, Any]) -> Self:
        """What a Trainer's configuration asks for: `strategy`, `devices` and `num_nodes`.

        Raises:
            ValueError: a strategy that there is no estimate for, or a number of devices that depends on the machine.
        """
        per_node, num_nodes = trainer.get("devices"), int(trainer.get("num_nodes") or 1)
        if isinstance(per_node, str) and per_node.isdecimal():
            per_node = int(per_node)
        if isinstance(per_node, list):
            per_node = len(per_node)
        if not isinstance(per_node, int) or per_node < 1:
            raise ValueError(f"trainer.devices is {per_node!r}. How many are there? Give --trainer.devices N.")
        devices = per_node * num_nodes
        strategy = trainer.get("strategy") or "auto"
        named, options = strategy, dict[str, Any]()
        if not isinstance(strategy, str):
            named, options = strategy["class_path"].rsplit(".", 1)[-1], strategy.get("init_args") or {}
        has_buckets = not options.get("gradient_as_bucket_view", False)
        return cls(_kind(named, devices), devices, has_buckets, options.get("shard_over"))


def _kind(name: str, devices: int) -> Kind:
    if name in ("FSDP2Strategy", "ModelParallelStrategy"):
        return "fsdp2"
    if name.startswith("ddp") or name == "DDPStrategy" or (name == "auto" and devices > 1):
        return "ddp"
    if name in ("auto", "SingleDeviceStrategy"):
        return "one device"
    raise ValueError(
        f"There is no estimate for trainer.strategy {name}. There is one for what stage 3 runs under: one device, ddp "
        "and FSDP2Strategy."
    )


@dataclass(frozen=True)
class Numbers:
    """How many numbers the parts of a run have.

    Args:
        trained: trained weights, adapters left out.
        adapters: of LoRA.
        frozen: weights of the backbone that are not trained.
        copied: weights that the reference does not share with the policy.
        verifier: of the verifier, which stays in float32 and whole.
        optimizer: what trains them.
    """

    trained: int
    adapters: int
    frozen: int
    copied: int
    verifier: int
    optimizer: PolicyOptimizer = "adamw"

    def trained_bytes(self, numerics: Numerics) -> int:
        """Bytes of what is trained, T."""
        return self.trained * numerics.weight + self.adapters * numerics.adapter

    @property
    def master_bytes(self) -> int:
        """Bytes of what is trained in float32, S."""
        return (self.trained + self.adapters) * _FLOAT32

    def saved_bytes(self, numerics: Numerics, strategy: Strategy) -> int:
        """Bytes of trained weights in a checkpoint, which holds them as the optimizer sees them."""
        return self.master_bytes if strategy.kind == "fsdp2" else self.trained_bytes(numerics)

    def moment_bytes(self, numerics: Numerics, strategy: Strategy) -> int:
        """Bytes of the optimizer's state: two moments in the type of the weights, or in 8 bits; Kahan's remainder."""
        if self.optimizer == "adamw_8bit":
            return 2 * (self.trained + self.adapters)
        has_remainder = self.optimizer == "kahan_adamw" and numerics.weight < _FLOAT32
        return (2 + has_remainder) * self.saved_bytes(numerics, strategy)


def state_bytes(numbers: Numbers, numerics: Numerics, strategy: Strategy) -> dict[str, ByPhase]:
    """What a device holds, whatever the batch: bytes by part and phase; formulas at the top of this file."""
    kind, shards = strategy.kind, strategy.shard_over or strategy.devices
    trained = numbers.trained_bytes(numerics)
    frozen, copied = float(numbers.frozen * numerics.weight), numbers.copied * numerics.weight
    gradients = trained
    optimizer, buckets, temporary = numbers.moment_bytes(numerics, strategy), 0, float(trained * numerics.scales)
    weights_by_phase, reference = always(trained), always(copied)
    gradients_by_phase = always(gradients)
    if kind == "ddp":
        buckets = gradients if strategy.has_buckets else 0
    elif kind == "fsdp2":
        shard = numbers.master_bytes / shards
        weights_by_phase = always(shard) | dict.fromkeys(("towers", "sampling", "update"), trained + shard)
        reference = always(copied / shards) | {"reference": copied * (1 + 1 / shards)}
        gradients_by_phase = always(shard) | {"update": gradients + shard}
        temporary = shard * numerics.scales
    return {
        "trained weights": weights_by_phase,
        "frozen weights": always(frozen),
        "reference": reference,
        "verifier": always(numbers.verifier * _FLOAT32),
        "gradients": gradients_by_phase,
        "buckets": always(buckets),
        "optimizer state": always(optimizer / (shards if kind == "fsdp2" else 1)),
        "optimizer scratch": {"optimizer step": temporary},
    }


def always(value: float) -> ByPhase:
    """The same in each phase."""
    return dict.fromkeys(PHASES, value)
