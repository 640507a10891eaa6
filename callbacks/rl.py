"""The RL callback: before each training step it samples completions, scores them and sets the advantages."""

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.rewards.base import Reward, sum_rewards
from datamodules.batch import ClipBatch
from lightning_modules.grpo import GRPOModule
from lightning_modules.rl.advantages import group_advantages, has_spread
from lightning_modules.rl.experience import Experience


class RLCallback(Callback):
    """Rollouts → rewards → group-relative advantages, left in `GRPOModule.experience` for the step that follows.

    Args:
        rewards: the rewards to add, each times its weight. Format + accuracy is R1-Omni's reward; with the explanation
            reward it is the ERV paper's.

    Raises:
        ValueError: no rewards, or two of one name.
    """

    def __init__(self, rewards: list[Reward]) -> None:
        names = [reward.name for reward in rewards]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"RLCallback needs rewards of different names, got {names}.")
        self.rewards = rewards

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, GRPOModule):
            raise ValueError(f"RLCallback works with GRPOModule, got {type(pl_module).__name__}.")
        if any(reward.needs_verifier for reward in self.rewards) and pl_module.verifier is None:
            raise ValueError("The explanation reward needs a verifier: set model.verifier to a directory or hub id.")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: ClipBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, GRPOModule), "checked in setup"
        if not len(batch):
            pl_module.experience = None
            return
        rollout = pl_module.rollout(batch)
        readings = None
        if any(reward.needs_verifier for reward in self.rewards):
            readings = pl_module.read_sentences(rollout.responses)
        rewards = {
            reward.name: reward(rollout.responses, rollout.targets, readings).to(pl_module.device)
            for reward in self.rewards
        }
        total = sum_rewards(self.rewards, rewards)
        advantages = group_advantages(total, pl_module.group_size, pl_module.normalise_std)
        pl_module.experience = Experience(rollout, rewards, total, advantages, readings)
        spread = has_spread(total, pl_module.group_size)
        for name, values in rewards.items():
            pl_module.log(f"reward/{name}", values.mean(), prog_bar=True, batch_size=len(batch))
        pl_module.log("reward/total", total.mean(), batch_size=len(batch))
        pl_module.log("reward/std_within_group", _within_group_std(total, pl_module.group_size), batch_size=len(batch))
        pl_module.log("reward/groups_without_spread", (~spread).float().mean(), batch_size=len(batch))


def _within_group_std(total: Tensor, group_size: int) -> Tensor:
    return total.view(-1, group_size).std(dim=1).mean()
