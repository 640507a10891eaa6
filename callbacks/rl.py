"""The RL callback: the rewards of a run, computed for the completions that `GRPOModule` asks about."""

from collections import Counter

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.rewards.base import Reward, RewardInput
from lightning_modules.grpo import GRPOModule
from lightning_modules.rl.rewarder import Rewarded, Rewarder


class RLCallback(Callback, Rewarder):
    """The rewards of a batch's completions, and the weights by which the step adds them.

    Args:
        rewards: the rewards to add, each times its weight. Format + accuracy is R1-Omni's reward; with the explanation
            reward it is the ERV paper's.

    Raises:
        ValueError: no rewards, or two of one name.
    """

    def __init__(self, rewards: list[Reward]) -> None:
        self.rewards = rewards
        if not rewards or len(set(self.names)) < len(self.names):
            raise ValueError(f"RLCallback needs rewards of different names, got {self.names}.")
        self.missing: Counter[str] = Counter()

    @property
    def names(self) -> list[str]:
        return [reward.name for reward in self.rewards]

    @property
    def needs_verifier(self) -> bool:
        return any(reward.needs_verifier for reward in self.rewards)

    @property
    def num_others(self) -> int:
        return max(reward.num_others for reward in self.rewards)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, GRPOModule):
            raise ValueError(f"RLCallback works with GRPOModule, got {type(pl_module).__name__}.")
        for reward in self.rewards:
            reward.check(pl_module)

    def reward(self, given: RewardInput) -> Rewarded:
        values = {reward.name: _checked(reward, reward(given), given) for reward in self.rewards}
        self.missing.update({name: int(value.isnan().sum()) for name, value in values.items()})
        return Rewarded(values, {reward.name: reward.weight_at(given.step) for reward in self.rewards})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        for reward in self.rewards:
            if reward.may_abstain:
                count = float(self.missing.pop(reward.name, 0))
                pl_module.log(f"reward/{reward.name}_missing", count, reduce_fx="sum", sync_dist=True, batch_size=1)


def _checked(reward: Reward, values: Tensor, given: RewardInput) -> Tensor:
    """What a reward gave, if it can be learned from.

    Raises:
        ValueError: another number of values than completions, one that is infinite, or NaN where that may not be.
    """
    if values.shape != (len(given),):
        raise ValueError(
            f"Reward {reward.name!r} gave {tuple(values.shape)} for {len(given)} completions. Expected one number each."
        )
    values = values.float()
    wrong = values.isinf() if reward.may_abstain else ~values.isfinite()
    if wrong.any():
        row = int(wrong.nonzero()[0])
        clip = f" of clip {given.ids[row]}" if given.ids else ""
        abstain = "" if reward.may_abstain else " (a reward that may have nothing to say sets `may_abstain`)"
        raise ValueError(
            f"Reward {reward.name!r} gave {values[row].item()} for completion {row}{clip}: "
            f"{given.responses[row].completion[:80]!r}. Expected finite numbers{abstain}."
        )
    return values
