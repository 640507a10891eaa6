"""The RL callback: before each training step it samples completions, scores them and sets the advantages."""

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.rewards.base import Reward, sum_rewards
from datamodules.batch import ClipBatch
from lightning_modules.grpo import GRPOModule
from lightning_modules.processes import Tally
from lightning_modules.rl.advantages import group_advantages, has_spread
from lightning_modules.rl.experience import Experience, Rollout
from lightning_modules.rl.overlong import check_buffer, overlong_penalty
from lightning_modules.sharding import gathered

OVERLONG = "overlong"
"""Name of the penalty among the rewards."""


class RLCallback(Callback):
    """Rollouts → rewards → group-relative advantages, left in `GRPOModule.experience` for the step that follows.

    Args:
        rewards: the rewards to add, each times its weight. Format + accuracy is R1-Omni's reward; with the explanation
            reward it is the ERV paper's.
        overlong_buffer_tokens: punish long completions, as a reward named `overlong` (DAPO, arXiv 2503.14476): 0 up to
            this many tokens before `max_new_tokens`, then falling linearly to -1 there. None: no punishment.
        overlong_weight: factor of that penalty in the sum of the rewards.

    Raises:
        ValueError: no rewards, or two of one name.
    """

    def __init__(
        self, rewards: list[Reward], overlong_buffer_tokens: int | None = None, overlong_weight: float = 1.0
    ) -> None:
        names = [reward.name for reward in rewards] + ([] if overlong_buffer_tokens is None else [OVERLONG])
        if not rewards or len(set(names)) < len(names):
            raise ValueError(f"RLCallback needs rewards of different names, got {names}.")
        self.rewards = rewards
        self.overlong_buffer_tokens = overlong_buffer_tokens
        self.overlong_weight = overlong_weight

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, GRPOModule):
            raise ValueError(f"RLCallback works with GRPOModule, got {type(pl_module).__name__}.")
        if any(reward.needs_verifier for reward in self.rewards) and pl_module.verifier is None:
            raise ValueError("The explanation reward needs a verifier: set model.verifier to a directory or hub id.")
        if self.overlong_buffer_tokens is not None:
            check_buffer(pl_module.rollout_sampling.max_new_tokens, self.overlong_buffer_tokens)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: ClipBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, GRPOModule), "checked in setup"
        pl_module.seed_step(batch_idx)
        pl_module.experience, tally = None, Tally()
        with gathered(pl_module.shards):
            if len(batch):
                # Lightning sets the precision up for the step and not for what precedes it: one policy samples and
                # learns.
                with trainer.precision_plugin.train_step_context():
                    rollout = pl_module.rollout(batch)
                pl_module.experience = self._experience(pl_module, rollout, tally)
        own = {f"reward/{reward.name}" for reward in self.rewards} | {f"reward/{OVERLONG}"}
        for name, value in tally.over_processes().items():
            pl_module.log(name, value, prog_bar=name in own, batch_size=max(len(batch), 1))

    def _experience(self, module: GRPOModule, rollout: Rollout, tally: Tally) -> Experience:
        """What to learn from; notes what to log of it."""
        first = self._score(module, rollout)
        experience, num_resampled = first, 0
        if module.uniform_groups == "resample":
            experience, num_resampled = self._resample(module, first)
        # The curves show what each clip gave at first: groups chosen for their spread would sway them.
        means = {name: rewards.mean() for name, rewards in first.rewards.items()}
        means["total"] = first.total.mean()
        means["std_within_group"] = _within_group_std(first.total, module.group_size)
        means["groups_without_spread"] = (~first.spread).float().mean()
        for name, value in means.items():
            tally.add(f"reward/{name}", value, weight=len(first.spread))
        if module.uniform_groups != "keep":
            tally.add("reward/groups_resampled", float(num_resampled), "sum")
            tally.add("reward/groups_skipped", float(len(experience.uniform_prompts)), "sum")
        return experience

    def _score(self, module: GRPOModule, rollout: Rollout) -> Experience:
        with module.meter.phase("score"):
            readings = None
            if any(reward.needs_verifier for reward in self.rewards):
                readings = module.read_sentences(rollout.responses)
            rewards = {
                reward.name: reward(rollout.responses, rollout.targets, readings).to(module.device)
                for reward in self.rewards
            }
            total = sum_rewards(self.rewards, rewards)
            if self.overlong_buffer_tokens is not None:
                longest = module.rollout_sampling.max_new_tokens
                rewards[OVERLONG] = overlong_penalty(rollout.completions.lengths, longest, self.overlong_buffer_tokens)
                total = total + self.overlong_weight * rewards[OVERLONG]
            advantages = group_advantages(total, module.group_size, module.normalise_std)
            return Experience(rollout, rewards, total, advantages, has_spread(total, module.group_size), readings)

    def _resample(self, module: GRPOModule, experience: Experience) -> tuple[Experience, int]:
        """Sample groups without spread again, and again; returns how many groups were sampled in all."""
        count = 0
        for _ in range(module.max_resamples):
            prompts = experience.uniform_prompts
            if not prompts:
                break
            with module.trainer.precision_plugin.train_step_context():
                rollout = module.resample(experience.rollout, prompts)
            experience = experience.put(prompts, self._score(module, rollout), module.backbone.tokenizer.pad_token_id)
            count += len(prompts)
        return experience, count


def _within_group_std(total: Tensor, group_size: int) -> Tensor:
    return total.view(-1, group_size).std(dim=1).mean()
