"""How much a sentence rests on what is seen and heard, without the truth about the clip.

What a modality tells a model about a sentence s of clip c is the pointwise mutual information log P(s | c) −
log mean_k P(s | c_k), where c_k is c with that modality of another clip: what the sentence loses when the modality is
taken away. A sentence that the model would write of any clip has 0; one that contradicts what it sees or hears less.
"""

import math
from dataclasses import dataclass
from typing import Literal

Evidence = Literal["pictures", "sound", "both"]
"""What is taken away."""

NEITHER = 0.1
"""Nats up to which a sentence counts as resting on nothing: it is at most 11 % more probable of its own clip."""


@dataclass  # not frozen: Lightning takes apart what a step returns, and refuses frozen ones
class Reliance:
    """What each modality tells a model about a sentence, in nats; None of one that the model does not have apart.

    Nothing is known of a sentence whose clip had no other beside it.

    Args:
        pictures: with other clips' pictures instead, the sound left.
        sound: likewise.
        both: with both of other clips; None where that was not asked for.
    """

    pictures: float | None = None
    sound: float | None = None
    both: float | None = None

    @property
    def strongest(self) -> float:
        """Of the modality that the sentence rests on most; NaN where nothing is known."""
        return max((value for value in (self.pictures, self.sound) if value is not None), default=math.nan)

    def belief(self, num_emotions: int) -> float:
        """Probability that what the sentence says is so, in [0, 1]: P(emotion | clip) = P(emotion) · exp(nats).

        NaN where nothing is known.

        Args:
            num_emotions: equally frequent ones that a sentence could speak of: what rests on nothing is true of one in
                so many clips.
        """
        return math.exp(min(self.strongest - math.log(num_emotions), 0.0))
