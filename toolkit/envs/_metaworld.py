"""The tasks of Meta-World 3.1.1 as the suites of `metaworld.py` use them: numbers only, no simulator.

A test compares ranges and distances with the simulator's own. `python -m toolkit.envs.metaworld` prints MEASURED.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Where one task may place its object and, where it has one, its goal: x, y, z of each [m].

    `low` and `high` are Meta-World's `_random_reset_space`, where training happens. bin-picking is the exception:
    its object may not leave its bin, so training keeps to the middle and extrapolation goes to the walls.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    axis: int  # the number that is held back and extrapolated: the widest, if the expert copes outside of it
    apart: float = 0.0  # least distance of object and goal in x and y [m]
    sides: str = "-+"  # where it is extrapolated to: below, above or both; never below in z, where the table is

    @property
    def beyond(self) -> tuple[tuple[float, float], ...]:
        """Ranges [m] of the number `axis` outside that of training: 10 to 30 % of its width away."""
        low, high = self.low[self.axis], self.high[self.axis]
        width = high - low
        below, above = (low - 0.3 * width, low - 0.1 * width), (high + 0.1 * width, high + 0.3 * width)
        return tuple({"-": below, "+": above}[side] for side in self.sides)


TASKS: dict[str, Task] = {
    "assembly": Task((0.0, 0.6, 0.02, -0.1, 0.75, 0.1), (0.0, 0.6, 0.02, 0.1, 0.85, 0.1), apart=0.1, axis=3),
    "basketball": Task(
        (-0.1, 0.6, 0.0299, -0.1, 0.85, 0.0), (0.1, 0.7, 0.0301, 0.1, 0.9000001, 0.0), apart=0.15, axis=3
    ),
    "bin-picking": Task((-0.17, 0.65, 0.02, 0.1199, 0.699, -0.001), (-0.07, 0.75, 0.02, 0.1201, 0.701, 0.001), axis=0),
    "box-close": Task(
        (-0.05, 0.5, 0.02, -0.1, 0.7, 0.133), (0.05, 0.55, 0.02, 0.1, 0.8, 0.133), apart=0.25, axis=4, sides="+"
    ),
    "button-press-topdown": Task((-0.1, 0.8, 0.115), (0.1, 0.9, 0.115), axis=0),
    "button-press-topdown-wall": Task((-0.1, 0.8, 0.115), (0.1, 0.9, 0.115), axis=0),
    "button-press": Task((-0.1, 0.85, 0.115), (0.1, 0.9, 0.115), axis=0),
    "button-press-wall": Task((-0.05, 0.85, 0.1149), (0.05, 0.9, 0.1151), axis=0),
    "coffee-button": Task((-0.1, 0.8, -0.001), (0.1, 0.9, 0.001), axis=0),
    "coffee-pull": Task(
        (-0.05, 0.7, -0.001, -0.1, 0.55, -0.001), (0.05, 0.75, 0.001, 0.1, 0.65, 0.001), apart=0.15, axis=3
    ),
    "coffee-push": Task(
        (-0.1, 0.55, -0.001, -0.05, 0.7, -0.001), (0.1, 0.65, 0.001, 0.05, 0.75, 0.001), apart=0.15, axis=0
    ),
    "dial-turn": Task((-0.1, 0.7, 0.0), (0.1, 0.8, 0.0), axis=0),
    "disassemble": Task(
        (0.0, 0.6, 0.025, -0.1, 0.6, 0.1699), (0.1, 0.75, 0.02501, 0.1, 0.75, 0.1701), apart=0.1, axis=3
    ),
    "door-close": Task((0.0, 0.85, 0.15), (0.1, 0.95, 0.15), axis=1),
    "door-lock": Task((-0.1, 0.8, 0.15), (0.1, 0.85, 0.15), axis=0),
    "door-open": Task((0.0, 0.85, 0.15), (0.1, 0.95, 0.15), axis=1),
    "door-unlock": Task((-0.1, 0.8, 0.15), (0.1, 0.85, 0.15), axis=0),
    "hand-insert": Task(
        (-0.1, 0.6, 0.05, -0.04, 0.8, -0.0201), (0.1, 0.7, 0.05, 0.04, 0.88, -0.0199), apart=0.15, axis=0
    ),
    "drawer-close": Task((-0.1, 0.9, 0.0), (0.1, 0.9, 0.0), axis=0),
    "drawer-open": Task((-0.1, 0.9, 0.0), (0.1, 0.9, 0.0), axis=0),
    "faucet-open": Task((-0.05, 0.8, 0.0), (0.05, 0.85, 0.0), axis=0),
    "faucet-close": Task((-0.1, 0.8, 0.0), (0.1, 0.85, 0.0), axis=0),
    "hammer": Task((-0.1, 0.4, 0.0), (0.1, 0.5, 0.0), axis=0),
    "handle-press-side": Task((-0.35, 0.65, -0.001), (-0.25, 0.75, 0.001), axis=1),
    "handle-press": Task((-0.1, 0.8, -0.001), (0.1, 0.9, 0.001), axis=0),
    "handle-pull-side": Task((-0.35, 0.65, 0.0), (-0.25, 0.75, 0.0), axis=1),
    "handle-pull": Task((-0.1, 0.8, -0.001), (0.1, 0.9, 0.001), axis=0),
    "lever-pull": Task((-0.1, 0.7, 0.0), (0.1, 0.8, 0.0), axis=0),
    "pick-place-wall": Task(
        (-0.05, 0.6, 0.015, -0.05, 0.85, 0.05), (0.05, 0.65, 0.015, 0.05, 0.9, 0.3), apart=0.15, axis=5, sides="+"
    ),
    "pick-out-of-hole": Task((0.0, 0.75, 0.02, -0.1, 0.5, 0.15), (0.0, 0.75, 0.02, 0.1, 0.6, 0.3), apart=0.15, axis=3),
    "pick-place": Task(
        (-0.1, 0.6, 0.02, -0.1, 0.8, 0.05), (0.1, 0.7, 0.02, 0.1, 0.9, 0.3), apart=0.15, axis=5, sides="+"
    ),
    "plate-slide": Task((0.0, 0.6, 0.0, -0.1, 0.85, 0.0), (0.0, 0.6, 0.0, 0.1, 0.9, 0.0), axis=3),
    "plate-slide-side": Task((0.0, 0.6, 0.0, -0.3, 0.54, 0.0), (0.0, 0.6, 0.0, -0.25, 0.66, 0.0), axis=3),
    "plate-slide-back": Task((0.0, 0.85, 0.0, -0.1, 0.6, 0.015), (0.0, 0.85, 0.0, 0.1, 0.6, 0.015), axis=3),
    "plate-slide-back-side": Task((-0.25, 0.6, 0.0, -0.05, 0.6, 0.015), (-0.25, 0.6, 0.0, 0.15, 0.6, 0.015), axis=3),
    "peg-insert-side": Task(
        (0.0, 0.5, 0.02, -0.35, 0.4, -0.001), (0.2, 0.7, 0.02, -0.25, 0.7, 0.001), apart=0.1, axis=3
    ),
    "peg-unplug-side": Task((-0.25, 0.6, -0.001), (-0.15, 0.8, 0.001), axis=1),
    "soccer": Task((-0.1, 0.6, 0.03, -0.1, 0.8, 0.0), (0.1, 0.7, 0.03, 0.1, 0.9, 0.0), apart=0.15, axis=1),
    "stick-push": Task(
        (-0.08, 0.58, 0.0, 0.399, 0.55, 0.1319), (-0.03, 0.62, 0.001, 0.401, 0.6, 0.1321), apart=0.1, axis=4
    ),
    "stick-pull": Task(
        (-0.1, 0.55, 0.0, 0.35, 0.45, 0.0199), (0.0, 0.65, 0.001, 0.45, 0.55, 0.0201), apart=0.1, axis=4
    ),
    "push": Task((-0.1, 0.6, 0.02, -0.1, 0.8, 0.01), (0.1, 0.7, 0.02, 0.1, 0.9, 0.02), apart=0.15, axis=3),
    "push-wall": Task((-0.05, 0.6, 0.015, -0.05, 0.85, 0.01), (0.05, 0.65, 0.015, 0.05, 0.9, 0.02), apart=0.15, axis=3),
    "push-back": Task(
        (-0.1, 0.8, 0.02, -0.1, 0.6, 0.0199), (0.1, 0.85, 0.02, 0.1, 0.7, 0.0201), apart=0.15, axis=4, sides="+"
    ),
    "reach": Task((-0.1, 0.6, 0.02, -0.1, 0.8, 0.05), (0.1, 0.7, 0.02, 0.1, 0.9, 0.3), apart=0.15, axis=5, sides="+"),
    "reach-wall": Task(
        (-0.05, 0.6, 0.015, -0.05, 0.85, 0.05), (0.05, 0.65, 0.015, 0.05, 0.9, 0.3), apart=0.15, axis=5, sides="+"
    ),
    "shelf-place": Task((-0.1, 0.5, 0.019, -0.1, 0.8, 0.299), (0.1, 0.6, 0.021, 0.1, 0.9, 0.301), apart=0.1, axis=3),
    "sweep-into": Task(
        (-0.1, 0.6, 0.02, -0.001, 0.8399, 0.0199), (0.1, 0.7, 0.02, 0.001, 0.8401, 0.0201), apart=0.15, axis=0
    ),
    "sweep": Task((-0.1, 0.6, 0.02), (0.1, 0.7, 0.02), axis=0),
    "window-open": Task((-0.1, 0.7, 0.16), (0.1, 0.9, 0.16), axis=1),
    "window-close": Task((0.0, 0.75, 0.2), (0.0, 0.9, 0.2), axis=1),
}
MT10 = (
    "reach",
    "push",
    "pick-place",
    "door-open",
    "drawer-open",
    "drawer-close",
    "button-press-topdown",
    "peg-insert-side",
    "window-open",
    "window-close",
)
MT25 = (
    "reach",
    "push",
    "pick-place",
    "door-open",
    "drawer-open",
    "drawer-close",
    "button-press-topdown",
    "peg-insert-side",
    "window-open",
    "window-close",
    "coffee-pull",
    "pick-out-of-hole",
    "disassemble",
    "pick-place-wall",
    "basketball",
    "stick-pull",
    "button-press-wall",
    "faucet-open",
    "door-lock",
    "lever-pull",
    "sweep-into",
    "faucet-close",
    "coffee-button",
    "button-press-topdown-wall",
    "dial-turn",
)
ML10 = (
    (
        "reach",
        "push",
        "pick-place",
        "door-open",
        "drawer-close",
        "button-press-topdown",
        "peg-insert-side",
        "window-open",
        "sweep",
        "basketball",
    ),
    ("drawer-open", "door-close", "shelf-place", "sweep-into", "lever-pull"),
)
ML45 = (
    (
        "assembly",
        "basketball",
        "button-press-topdown",
        "button-press-topdown-wall",
        "button-press",
        "button-press-wall",
        "coffee-button",
        "coffee-pull",
        "coffee-push",
        "dial-turn",
        "disassemble",
        "door-close",
        "door-open",
        "drawer-close",
        "drawer-open",
        "faucet-open",
        "faucet-close",
        "hammer",
        "handle-press-side",
        "handle-press",
        "handle-pull-side",
        "handle-pull",
        "lever-pull",
        "pick-place-wall",
        "pick-out-of-hole",
        "push-back",
        "pick-place",
        "plate-slide",
        "plate-slide-side",
        "plate-slide-back",
        "plate-slide-back-side",
        "peg-insert-side",
        "peg-unplug-side",
        "soccer",
        "stick-push",
        "stick-pull",
        "push-wall",
        "push",
        "reach-wall",
        "reach",
        "shelf-place",
        "sweep-into",
        "sweep",
        "window-open",
        "window-close",
    ),
    ("bin-picking", "box-close", "hand-insert", "door-lock", "door-unlock"),
)

MEASURED: dict[str, tuple[tuple[float, float, float, float], ...]] = {k: ((0, 1, 0, 0),) * 3 for k in TASKS}
"""Task -> for train, interpolated and extrapolated: mean return of random and expert, success of random and expert."""
