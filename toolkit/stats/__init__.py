"""Estimates that say how sure they are: IQM, clustered intervals, equivalence, spread, runs still needed.

NumPy and SciPy only; nothing of ours is imported and no randomness is hidden: a resampling function
takes its generator. Letters in shapes: F families (or learners), D dataset draws, S training seeds
within a draw, T tasks, R = D * S runs.

**Few clusters.** Runs that share a draw of the data are not independent, and studies have two to five
draws. A percentile bootstrap of three clusters covers about 75% where it claims 95%. So the unit is the
draw, and the reference distribution is Student's: intervals of means are t intervals on draw means
(noise of seeds is inside them, whatever S), tasks are strata, and the degrees of freedom are
Satterthwaite's. Statistics that are not means take their standard error from the hierarchical bootstrap, corrected
for its small-sample bias, and Student's quantile with it (Hesterberg, arXiv:1411.5279). With one draw nothing is known
about other draws: the interval is infinite, never absent.
"""

from toolkit.stats.bootstrap import (
    hierarchical_bootstrap,
    hierarchical_iqm,
    interquartile_mean,
    iqm,
    stratified_bootstrap,
)
from toolkit.stats.compare import holm, improvement, performance_profile, probability_of_improvement
from toolkit.stats.estimate import Array, Estimate, interval, student
from toolkit.stats.means import (
    Equivalence,
    nested_interval,
    paired_difference,
    regret,
    standard_error,
    student_interval,
    tost,
)
from toolkit.stats.power import (
    Bar,
    draws_for_bound,
    draws_for_equivalence,
    draws_needed,
    equivalence_bar,
    power,
)
from toolkit.stats.spread import jackknife, line, noise_corrected_spread, paired_spread, signed_root

__all__ = [
    "Array",
    "Bar",
    "Equivalence",
    "Estimate",
    "draws_for_bound",
    "draws_for_equivalence",
    "draws_needed",
    "equivalence_bar",
    "hierarchical_bootstrap",
    "hierarchical_iqm",
    "holm",
    "improvement",
    "interquartile_mean",
    "interval",
    "iqm",
    "jackknife",
    "line",
    "nested_interval",
    "noise_corrected_spread",
    "paired_difference",
    "paired_spread",
    "performance_profile",
    "power",
    "probability_of_improvement",
    "regret",
    "signed_root",
    "standard_error",
    "stratified_bootstrap",
    "student",
    "student_interval",
    "tost",
]
