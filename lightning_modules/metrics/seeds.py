"""Two arms over several seeds: is the difference more than chance, of seeds and of clips?

Shape legend: S seeds, C clips. `Values` of a comparison are float64 `[S, C]`: what clip c adds to the difference of the
arms in seed s; the mean over clips is that seed's difference (`rate_values`, `recall_values`, `ratio_values`).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_modules.metrics.intervals import LEVEL, Interval

Values = NDArray[np.float64]

_ROUNDING = 1e-12
"""A smaller standard error of a difference of rates is none: equal differences can be an ulp apart."""


@dataclass(frozen=True)
class SeedDifference:
    """A difference of two arms over seeds.

    Args:
        difference: its mean over seeds, with a 95 % interval for other seeds and other clips.
        freedom: degrees of freedom of the interval's t distribution.
        p_value: of no difference, two-sided; None where all seeds have the same.
    """

    difference: Interval
    freedom: float
    p_value: float | None


def nested_difference(differences: Values) -> SeedDifference:
    """Seeds that test on clips of their own: Student's t over the seeds' differences, float64 `[S]`.

    A seed's difference varies with its training and with its clips, so their spread holds both:
    d̄ ± t(0.975, S − 1) · s / √S. Source: Student 1908; clips are nested in seeds.

    Raises:
        ValueError: fewer than two seeds.
    """
    num_seeds = len(differences)
    if num_seeds < 2:
        raise ValueError(f"Got {num_seeds} seed. Expected two or more: one has no spread.")
    return _difference(float(differences.mean()), float(differences.var(ddof=1)) / num_seeds, num_seeds - 1)


def crossed_difference(values: Values) -> SeedDifference:
    r"""Seeds that test on the same clips: both vary, and every seed meets every clip.

    With x_sc = μ + a_s + b_c + e_sc, the mean x̄ has the variance σ_a²/S + σ_b²/C + σ_e²/(SC). The mean squares of the
    two-way table estimate E[MS_a] = σ_e² + C·σ_a², E[MS_b] = σ_e² + S·σ_b² and E[MS_e] = σ_e², so that

        V = (MS_a + max(MS_b − MS_e, 0)) / (SC),    ν = (SC·V)² / (MS_a²/(S−1) + MS_b²/(C−1) + MS_e²/((S−1)(C−1)))

    where ν leaves out MS_b and MS_e when their difference is not positive, and x̄ ± t(0.975, ν) · √V. Sources: Clark
    1973 (language as a fixed effect: both are random), Satterthwaite 1946 (ν).

    Args:
        values: float64 `[S, C]`.

    Raises:
        ValueError: fewer than two seeds or clips.
    """
    num_seeds, num_clips = values.shape
    if min(num_seeds, num_clips) < 2:
        raise ValueError(f"Got {num_seeds} seeds and {num_clips} clips. Expected two or more of each.")
    mean, of_seeds, of_clips = values.mean(), values.mean(axis=1), values.mean(axis=0)
    rest = values - of_seeds[:, None] - of_clips[None] + mean
    seeds = num_clips * float(of_seeds.var(ddof=1))
    clips = num_seeds * float(of_clips.var(ddof=1))
    noise = float((rest**2).sum()) / ((num_seeds - 1) * (num_clips - 1))
    total, spread = seeds, seeds**2 / (num_seeds - 1)
    if clips > noise:
        total += clips - noise
        spread += clips**2 / (num_clips - 1) + noise**2 / ((num_seeds - 1) * (num_clips - 1))
    freedom = total**2 / spread if spread else num_seeds - 1.0
    return _difference(float(mean), total / values.size, max(freedom, 1.0))


def rate_values(baseline: NDArray[np.bool_], other: NDArray[np.bool_]) -> Values:
    """Of a share of clips, bool `[S, C]` each: 1 where the other arm alone counts the clip, −1 where the baseline."""
    return other.astype(np.float64) - baseline.astype(np.float64)


def recall_values(baseline: NDArray[np.bool_], other: NDArray[np.bool_], classes: NDArray[np.int64]) -> Values:
    """Of UAR: a clip of class k adds C / (K·n_k) times its own difference less the class' mean, and the mean UAR.

    So a seed's mean is its difference of UAR, and clips vary within their class only, as the classes are fixed.

    Args:
        baseline: whether each clip is right, bool `[S, C]`.
        other: the same.
        classes: of the clips, int64 `[C]`.
    """
    raw = rate_values(baseline, other)
    present = np.unique(classes)
    member = (classes[:, None] == present).astype(np.float64)  # [C, K]
    counts = member.sum(axis=0)
    recalls = (raw @ member / counts).mean(axis=0)  # [K], over seeds
    weights = len(classes) / (len(present) * (member @ counts))
    return weights * (raw - member @ recalls) + recalls.mean()


def ratio_values(baseline: NDArray[np.int64], other: NDArray[np.int64]) -> Values:
    """Of a ratio of sums over clips: r_s + (n_sc − r_s·d_sc) / d̄_s of the other arm, less the baseline's.

    The ratio's linear part: its mean over clips is the ratio itself. Source: Cochran 1977, section 2.11.

    Args:
        baseline: numerator n and denominator d of each clip, int64 `[S, C, 2]`; NaN results where all d are 0.
        other: the same.
    """

    def linear(counts: NDArray[np.int64]) -> Values:
        parts, wholes = counts[..., 0].astype(np.float64), counts[..., 1].astype(np.float64)
        sums = wholes.sum(axis=1, keepdims=True)
        ratio = np.divide(parts.sum(axis=1, keepdims=True), sums, out=np.full(sums.shape, np.nan), where=sums > 0)
        mean = sums / wholes.shape[1]
        return ratio + np.divide(parts - ratio * wholes, mean, out=np.full(parts.shape, np.nan), where=mean > 0)

    return linear(other) - linear(baseline)


def _difference(mean: float, variance: float, freedom: float) -> SeedDifference:
    if math.sqrt(variance) < _ROUNDING:
        variance = 0.0
    half = student_quantile((1 + LEVEL) / 2, freedom) * math.sqrt(variance)
    p_value = student_p(mean / math.sqrt(variance), freedom) if variance > 0 else None
    return SeedDifference(Interval(mean, mean - half, mean + half), freedom, p_value)


def student_p(t: float, freedom: float) -> float:
    """Two-sided p of Student's t: P(|T| ≥ |t|) = I_x(ν/2, ½) with x = ν / (ν + t²).

    Source: Abramowitz and Stegun 1964, 26.7.1.
    """
    return _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def student_quantile(share: float, freedom: float) -> float:
    """The t that a share of more than a half of Student's distribution lies below, by bisection."""
    low, high = 0.0, 1.0
    while 1 - student_p(high, freedom) / 2 < share:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - student_p(middle, freedom) / 2 < share else (low, middle)
    return high


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b) by its continued fraction (Lentz' method). Source: Press et al., Numerical Recipes, section 6.4.

    `scipy.special.betainc` is the same; this framework does without SciPy.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges fast
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1 / ((1 - (a + b) * x / (a + 1)) or tiny)
    result = d
    for m in range(1, 10_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / ((1 + numerator * d) or tiny)
            c = (1 + numerator / c) or tiny
            result *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * result
