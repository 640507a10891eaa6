"""Several completions of each clip: what one of them is worth on average, what their majority is, and the best of j.

Shape legend: N clips, k samples of each.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import comb
from statistics import fmean, stdev
from typing import Any

import numpy as np

from datamodules.emotions import Taxonomy
from lightning_modules.metrics.intervals import clip_outcomes
from lightning_modules.metrics.predictions import Prediction


def pass_at(num_right: int, num_samples: int, chosen: int) -> float:
    """Probability that at least one of some samples is right: 1 − C(k − c, j) / C(k, j), unbiased (Chen et al. 2021).

    Args:
        num_right: c, of all samples.
        num_samples: k.
        chosen: j, drawn without putting back, 1 ≤ j ≤ k.
    """
    return 1 - comb(num_samples - num_right, chosen) / comb(num_samples, chosen)


def majority(answers: Sequence[str | None]) -> str | None:
    """The commonest answer, the earliest of several such; answers that name no class have no vote."""
    votes = Counter(answer for answer in answers if answer is not None)
    return max(votes, key=votes.__getitem__, default=None)  # of equals, the first that was counted


def several_samples(samples: Sequence[Sequence[Prediction]], taxonomy: Taxonomy, judged: bool) -> dict[str, Any]:
    """Figures over k samples of N clips: `samples` of `metrics.json`.

    Args:
        samples: k runs over the same clips in the same order; at least two.
        taxonomy: the classes.
        judged: whether there was a judge.

    Returns:
        `per_clip`, k; `rates`: of each rate that the clips have (`clip_outcomes`) its `mean` over samples and the
        standard deviation `sd` between them; `agreement`: mean share of a clip's samples with its commonest answer, one
        that names no class among them; `majority`: WAR and UAR of the commonest answer; `pass_at`: of `war` and `fcr`,
        where the clips have them, j → probability that one of j samples is right.
    """
    outcomes = [clip_outcomes(own, taxonomy, judged) for own in samples]
    values = [own.values() for own in outcomes]
    answers = [[one.prediction for one in clip] for clip in zip(*samples, strict=True)]
    voted = [replace(own, prediction=majority(given)) for own, given in zip(samples[0], answers, strict=True)]
    k = len(samples)
    right = {
        name: np.sum([own.hits[name] for own in outcomes], 0) for name in ("war", "fcr") if name in outcomes[0].hits
    }
    return {
        "per_clip": k,
        "rates": {
            rate: {"mean": fmean(own[rate] for own in values), "sd": stdev(own[rate] for own in values)}
            for rate in values[0]
        },
        "agreement": fmean(max(Counter(given).values()) / k for given in answers),
        "majority": clip_outcomes(voted, taxonomy, judged=False).values(),
        "pass_at": {
            name: {str(j): fmean(pass_at(int(c), k, j) for c in counts) for j in range(1, k + 1)}
            for name, counts in right.items()
        },
    }


def samples_summary(figures: dict[str, Any]) -> list[str]:
    """The figures as lines for the screen, in percent."""
    k = figures["per_clip"]
    rates = ", ".join(
        f"{rate.upper()} {100 * own['mean']:.1f} ± {100 * own['sd']:.1f}" for rate, own in figures["rates"].items()
    )
    voted = ", ".join(f"{rate.upper()} {100 * value:.1f}" for rate, value in figures["majority"].items())
    lines = [
        f"{k} samples of each clip, mean ± standard deviation: {rates}. Agreement {100 * figures['agreement']:.1f}."
    ]
    if voted:
        lines.append(f"Majority of {k}: {voted}.")
    for name, own in figures["pass_at"].items():
        lines.append(f"pass@k, {name.upper()}: {', '.join(f'{j}: {100 * value:.1f}' for j, value in own.items())}.")
    return lines
