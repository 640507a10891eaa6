"""A policy in training: what stages 1 and 3 share."""

from typing import Any, ClassVar

import torch
from lightning import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.optim import Optimizer

from datamodules.batch import ClipBatch
from lightning_modules.backbones.interface import Backbone, Completions
from lightning_modules.evaluation import num_lacking
from lightning_modules.global_batch import GlobalBatch
from lightning_modules.health import OnNonFinite, StepHealth
from lightning_modules.movement import Movement
from lightning_modules.optimizer import (
    PolicyOptimizer,
    Schedule,
    policy_optimizer,
    refuse_lost_steps,
    require_optimizer,
    scheduled,
)
from lightning_modules.policy import PolicyModule
from lightning_modules.processes import sum_over_processes
from lightning_modules.provenance import Mismatch, check_provenance, code_version
from lightning_modules.refusals import AVERAGING, FINDERS, refuse_automatic_steps, refuse_callbacks
from lightning_modules.sharding import FSDP2Strategy, Shards, shard_mesh, whole
from lightning_modules.step_seed import SeededSteps


class TrainablePolicyModule(PolicyModule, SeededSteps):
    """A policy with an optimizer: AdamW on the trained parts, warm-up, then a schedule.

    A subclass names its `stage`, by which the backbone's `recipes` are looked up, the paper's global batch and what it
    counts, and says in `accumulate` how several passes make a step.

    Args:
        backbone: the multimodal LLM.
        taxonomy: the emotion classes that answers and targets come from.
        trainable: names of the backbone's parts to train; all others stay frozen to the bit. By default those of the
            backbone's recipe for this stage. In stage 3 the towers run without gradient and cannot be among them.
        learning_rate: peak learning rate; by default that of the backbone's recipe for this stage.
        optimizer: AdamW; or, for weights at rest in bfloat16 on one device or under DDP, AdamW with Kahan's summation
            (10 bytes per weight with gradient and states; float32 has 16), or with moments in 8 bits and stochastic
            rounding (6 bytes). Both need the extra `optimizers`.
        weight_decay: AdamW's decoupled weight decay.
        global_batch: clips (stage 1) or prompts (stage 3) per optimizer step of all processes. `data.batch_size` is
            then what a process computes at once, and the run derives how many such passes it accumulates. None:
            `data.batch_size` × processes × `trainer.accumulate_grad_batches`.
        warmup_ratio: share of the optimizer steps in which the learning rate rises linearly from 0.
        schedule: what follows the warm-up.
        on_non_finite: what becomes of a step whose loss or gradient is not finite: the run stops, or skips the step. It
            is saved for `python main.py replay` in either case.
        max_non_finite: how many such steps of the whole run may be skipped; one more stops it.
        use_liger_kernel: compute log-probabilities with Liger's fused cross-entropy, on a GPU; needs the extra `liger`.
        policy: see `PolicyModule`.

    Raises:
        ValueError: a part that the backbone does not have, or neither a value nor a recipe for `trainable` or
            `learning_rate`.
    """

    stage: ClassVar[str]
    published_batch: ClassVar[int]
    """The paper's global batch."""
    batch_unit: str
    """What it counts."""
    gradient_clip_norm: float | None = None
    """Largest norm of the gradient, where a module clips it itself."""
    checkpoint_mismatch: Mismatch = "error"
    """What becomes of a checkpoint that was trained with another verifier or taxonomy."""

    def __init__(
        self,
        backbone: Backbone,
        taxonomy: str,
        *,
        trainable: list[str] | None = None,
        learning_rate: float | None = None,
        optimizer: PolicyOptimizer = "adamw",
        weight_decay: float = 0.0,
        global_batch: int | None = None,
        warmup_ratio: float = 0.0,
        schedule: Schedule = "linear",
        on_non_finite: OnNonFinite = "stop",
        max_non_finite: int = 10,
        use_liger_kernel: bool = False,
        **policy: Any,
    ) -> None:
        super().__init__(backbone, taxonomy, bare_answers=False, **policy)
        self.trainable = self._from_recipe("trainable", trainable)
        self.learning_rate = self._from_recipe("learning_rate", learning_rate)
        backbone.set_trainable(self.trainable)
        require_optimizer(optimizer)
        self.optimizer: PolicyOptimizer = optimizer
        self.movement: Movement | None = None
        self.weight_decay = weight_decay
        self.global_batch = global_batch
        self.warmup_ratio = warmup_ratio
        self.schedule = schedule
        self.num_skipped_clips = 0  # of all processes
        self.num_silent_clips = 0
        self.shards: Shards | None = None
        self._gradients_are_checked = False
        self.health = StepHealth(on_non_finite, max_non_finite)
        self.uses_liger_kernel = use_liger_kernel
        if use_liger_kernel:
            backbone.use_liger_kernel()

    def _from_recipe(self, name: str, value: Any) -> Any:
        """The value given for a field of `Recipe`, else that of the backbone's recipe for this stage."""
        recipes = self.backbone.recipes or {}
        recipe = recipes.get(self.stage)
        if value is None and recipe is None:
            raise ValueError(
                f"Got no model.{name}, and {type(self.backbone).__name__} has no recipe for the stage {self.stage!r} "
                f"(its recipes: {', '.join(recipes) or 'none'}). Set model.init_args.{name}, or "
                f"model.init_args.backbone.init_args.recipes.{self.stage} to trainable parts and a learning rate, as "
                "configs/backbone/*.yaml do."
            )
        return getattr(recipe, name) if value is None else value

    def configure_callbacks(self) -> list[Callback]:
        """Adds none; refuses those that cannot work, as this is asked before anything else."""
        refuse_callbacks(self.trainer, *FINDERS, *AVERAGING)
        if not self.automatic_optimization:
            refuse_automatic_steps(self.trainer)
        return []

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.health.check_strategy(self.trainer.strategy)
        if stage == "fit":
            self._deal_batch()
        if self.uses_liger_kernel and self.trainer.strategy.root_device.type == "cpu":
            raise ValueError("Liger's kernel runs on a GPU, this run on the CPU. Set model.use_liger_kernel to false.")
        if isinstance(self.trainer.strategy, FSDPStrategy):
            raise ValueError(
                "FSDPStrategy gathers each layer when it is called, which hangs where processes write completions of "
                "different lengths. Use configs/trainer/fsdp2.yaml."
            )
        evaluates = stage != "fit" or bool(self.trainer.limit_val_batches)
        if getattr(self.trainer.strategy, "zero_stage_3", False) and evaluates:
            raise ValueError(
                "DeepSpeed ZeRO-3 gathers each layer when it is called, which hangs where processes write completions "
                "of different lengths. Set trainer.limit_val_batches to 0, and evaluate the exported model with "
                "configs/trainer/ddp.yaml."
            )
        if self.optimizer != "adamw" and isinstance(self.trainer.strategy, FSDP2Strategy | DeepSpeedStrategy):
            raise ValueError(
                f"model.optimizer={self.optimizer} is made for weights that stand whole at rest in bfloat16; "
                f"{type(self.trainer.strategy).__name__} keeps shards of its own in float32. Set model.optimizer to "
                "adamw."
            )

    def _deal_batch(self) -> None:
        """Have the run make steps of `global_batch`, and say what the global batch is."""
        data = getattr(self.trainer, "datamodule", None)
        size = getattr(data, "batch_size", None)
        if self.global_batch is None:
            batch = size and GlobalBatch(self.trainer.world_size, size, self.trainer.accumulate_grad_batches)
        elif size is None:
            raise ValueError(
                f"{type(data).__name__} has no batch_size, out of which model.global_batch could be made up. Set "
                "model.global_batch to null."
            )
        else:
            batch = GlobalBatch.dealt(self.global_batch, self.trainer.world_size, size)
            self.accumulate(batch)
        if batch:
            rank_zero_info(batch.describe(self.batch_unit, self.published_batch))

    def accumulate(self, batch: GlobalBatch) -> None:
        """Have each optimizer step learn from a global batch.

        Raises:
            ValueError: the trainer says otherwise.
        """
        raise NotImplementedError

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):  # which steps on float32 copies of its own
            return
        (optimizer,) = self.trainer.optimizers
        refuse_lost_steps(optimizer, self.optimizer, self.learning_rate)
        self.movement = Movement(optimizer, self.learning_rate)

    def on_train_batch_end(self, *_: Any) -> None:
        if self.movement is not None and self.movement.is_measured:
            share = self.movement.share(self.device)
            if share is not None:
                self.log("train/moved", share, batch_size=1)

    def configure_model(self) -> None:
        """Shard the trained weights under a strategy with a device mesh; all else stays whole on every process."""
        mesh = shard_mesh(self.trainer.strategy)
        if mesh is not None and self.shards is None:
            trained = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
            self.shards = Shards(self.backbone, trained, mesh)

    def on_validation_start(self) -> None:
        # Once for all batches, of which processes may have different numbers.
        if self.shards is not None:
            self.shards.gather()

    def on_validation_end(self) -> None:
        if self.shards is not None:
            self.shards.release()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def num_optimizer_steps(self) -> float:
        """Optimizer steps of the whole run, for the schedule; infinite where nothing says when it ends."""
        return self.trainer.estimated_stepping_batches

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        parameters = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        optimizer = policy_optimizer(
            self.optimizer, parameters, self.trainer, lr=self.learning_rate, weight_decay=self.weight_decay
        )
        return scheduled(optimizer, self.schedule, self.warmup_ratio, self.num_optimizer_steps())

    def provenance(self) -> dict[str, Any]:
        """What a checkpoint of this module names: `taxonomy`, `verifier` (`path`, `sha256`), `backbone`, `code`."""
        verifier = self.verifier
        return {
            "taxonomy": self.taxonomy.name,
            "verifier": verifier and {"path": verifier.path, "sha256": verifier.sha256},
            "backbone": f"{type(self.backbone).__module__}.{type(self.backbone).__qualname__}",
            "trainable": list(self.trainable),
            "optimizer": self.optimizer,
            "code": code_version(),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained; frozen parts come from their own directories (decision 43)."""
        super().on_save_checkpoint(checkpoint)
        trained = self._trained_keys()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["provenance"] = self.provenance()
        checkpoint["counts"] = {"skipped": self.num_skipped_clips, "silent": self.num_silent_clips}
        checkpoint["health"] = self.health.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the frozen parts as they are, after checking that the checkpoint belongs to this module.

        Raises:
            ValueError: it was written with another verifier, taxonomy or trainable parts.
        """
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint["provenance"]
        check_provenance(saved, self.provenance(), self.checkpoint_mismatch)
        if saved["optimizer"] != self.optimizer and "optimizer_states" in checkpoint:
            raise ValueError(
                f"The checkpoint holds the state of {saved['optimizer']}, which {self.optimizer} cannot go on from. "
                f"Set model.optimizer to {saved['optimizer']}."
            )
        self.num_skipped_clips = checkpoint["counts"]["skipped"]
        self.num_silent_clips = checkpoint["counts"]["silent"]
        self.health.load_state_dict(checkpoint["health"])
        if "state_dict" not in checkpoint:  # DeepSpeed has restored the weights by itself
            return
        missing = sorted(self._trained_keys() - set(checkpoint["state_dict"]))
        if missing:
            raise ValueError(
                f"The checkpoint lacks {len(missing)} trained tensors, e.g. {missing[0]}. It was written with other "
                f"trainable parts than {self.trainable}: set model.trainable to those of the run that wrote it."
            )
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}

    def _trained_keys(self) -> set[str]:
        return {
            f"backbone.{name}"
            for name, parameter in self.backbone.named_parameters(remove_duplicate=False)
            if parameter.requires_grad
        }

    def check_gradients(self) -> None:
        """Refuse trained parts that the loss does not reach (decision 37). Looks once, after the first backward pass.

        A part counts as reached when any of its parameters is: HumanOmni, for one, takes its vision tower's features
        before the last layer, which then gets no gradient.

        Raises:
            ValueError: naming the parts of which no parameter got a gradient.
        """
        if self._gradients_are_checked:
            return
        self._gradients_are_checked = True
        # Strategies that shard keep nothing here of a part that another device holds.
        trained = {
            name: [p for p in part.parameters() if p.requires_grad and p.numel()]
            for name, part in self.backbone.parts.items()
        }
        unreached = [name for name, own in trained.items() if own and all(p.grad is None for p in own)]
        # DeepSpeed takes the gradients away as they come: where there is none at all, nothing can be said.
        if unreached and len(unreached) < sum(map(bool, trained.values())):
            raise ValueError(
                f"No gradient reaches {', '.join(unreached)}, of the trainable parts {', '.join(self.trainable)}: "
                f"training would leave {'it' if len(unreached) == 1 else 'them'} as before. Leave "
                f"{', '.join(unreached)} out of model.trainable (in stage 3 the towers run once per clip, without "
                "gradient)."
            )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Look at the whole gradient, and clip it. Precision plugins call this after they have unscaled it."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        if self.gradient_clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.gradient_clip_norm, norm)
        self.log("train/gradient_norm", whole(norm), batch_size=1)
        self.check_finite(optimizer, whole(norm))

    def check_finite(self, optimizer: Optimizer, gradient_norm: torch.Tensor) -> None:
        """Let only a finite step reach the weights, and log how many were not; see `StepHealth.judge`.

        Raises:
            NonFiniteError: naming the clips.
        """
        self.health.judge(self, optimizer, gradient_norm)
        if self.movement is not None:
            self.movement.look()
        if self.optimizer == "adamw_8bit":
            self.seed_rounding()
        self.log("train/non_finite_steps", float(self.health.num_steps), batch_size=1)
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            self.log("train/scaler_skips", float(self.health.num_scaler_skips), batch_size=1)

    def count_clips(self, batch: ClipBatch) -> None:
        """Log how many clips so far, on all processes, could not be decoded or had no audio track."""
        skipped, silent = sum_over_processes(len(batch.skipped), num_lacking(batch, "sound"), device=self.device)
        self.num_skipped_clips += int(skipped)
        self.num_silent_clips += int(silent)
        counts = {"skipped_clips": self.num_skipped_clips, "silent_clips": self.num_silent_clips}
        for name, count in counts.items():
            self.log(f"train/{name}", float(count), batch_size=max(len(batch), 1))

    def zero_loss(self) -> torch.Tensor:
        """Sums over nothing: the gradient is zero, and every trained parameter takes part in the backward pass."""
        return torch.stack([p.flatten()[:0].sum() for p in self.backbone.parameters() if p.requires_grad]).sum()

    def completion_length(self, completions: Completions) -> torch.Tensor:
        """Mean completion length in tokens."""
        return completions.lengths.float().mean()
