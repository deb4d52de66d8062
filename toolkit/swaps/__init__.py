"""Parts of a learner swapped, one at a time, for the ideal one while it acts.

Every swap is a `toolkit.evaluate.Stage`: it acts in the learner's place in the same contexts from the same seeds. What
a swap needs of a learner is a protocol of `toolkit.core`, and of a suite its simulator; `offered` says which there are.
The ideal parts know more than a learner may: the simulator and the scripted expert know the context.
"""

from toolkit.swaps.arms import Nearest, Scene, Swap, offered

__all__ = ["Nearest", "Scene", "Swap", "offered"]
