"""The claim, tested: evaluation records in; numbers, a verdict and plain words out. No torch, no files.

`analysis` computes, `verdict` decides, `needed` says what would decide it, `words` tells.
"""

from toolkit.claim.analysis import analyse, direction
from toolkit.claim.findings import Analysis
from toolkit.claim.words import verdict_table

__all__ = ["Analysis", "analyse", "direction", "verdict_table"]
