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
    sides: str = "-+"  # where it is extrapolated to: below, above or both, where the expert copes and chance does not

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
    "plate-slide-back-side": Task(
        (-0.25, 0.6, 0.0, -0.05, 0.6, 0.015), (-0.25, 0.6, 0.0, 0.15, 0.6, 0.015), axis=3, sides="+"
    ),
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
        (-0.1, 0.8, 0.02, -0.1, 0.6, 0.0199), (0.1, 0.85, 0.02, 0.1, 0.7, 0.0201), apart=0.15, axis=1, sides="+"
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

MEASURED: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "assembly": ((-293.16, -79.03, 0, 1), (-293.25, -78.98, 0, 1), (-293.60, -81.94, 0, 1)),
    "basketball": ((-299.66, -108.40, 0, 0.88), (-299.67, -100.65, 0, 0.92), (-299.66, -87.46, 0, 1)),
    "bin-picking": ((-299.70, -111.48, 0, 1), (-299.70, -115.03, 0, 1), (-299.72, -122.14, 0, 1)),
    "box-close": ((-290.33, -107.46, 0, 0.96), (-290.20, -120.20, 0, 0.84), (-291.08, -105.58, 0, 0.96)),
    "button-press-topdown": ((-294.16, -57.16, 0, 1), (-294.63, -57.06, 0, 1), (-295.06, -59.23, 0, 1)),
    "button-press-topdown-wall": ((-291.06, -49.96, 0, 1), (-290.98, -50.29, 0, 1), (-291.82, -50.74, 0, 1)),
    "button-press": ((-294.43, -57.53, 0, 1), (-293.86, -57.65, 0, 1), (-295.40, -58.47, 0, 1)),
    "button-press-wall": ((-298.09, -72.05, 0, 0.92), (-297.50, -55.57, 0, 1), (-298.39, -61.73, 0, 1)),
    "coffee-button": ((-290.75, -35.55, 0.04, 1), (-286.36, -34.33, 0.04, 1), (-295.12, -41.16, 0, 1)),
    "coffee-pull": ((-299.33, -74.87, 0, 1), (-299.31, -76.04, 0, 1), (-299.38, -73.96, 0, 1)),
    "coffee-push": ((-299.32, -53.00, 0, 1), (-299.31, -51.98, 0, 1), (-299.39, -55.34, 0, 1)),
    "dial-turn": ((-295.50, -61.56, 0, 1), (-296.41, -61.36, 0, 1), (-296.09, -67.78, 0, 1)),
    "disassemble": ((-294.26, -129.26, 0, 0.92), (-295.27, -147.03, 0, 0.88), (-294.03, -116.51, 0, 1)),
    "door-close": ((-298.93, -60.11, 0, 1), (-299.02, -59.04, 0, 1), (-298.68, -55.58, 0, 1)),
    "door-lock": ((-275.57, -71.79, 0.04, 1), (-282.59, -69.68, 0, 1), (-284.22, -75.37, 0, 1)),
    "door-open": ((-291.26, -68.25, 0, 1), (-291.24, -83.21, 0, 0.92), (-291.10, -88.43, 0, 0.88)),
    "door-unlock": ((-286.09, -39.70, 0, 1), (-286.54, -38.17, 0, 1), (-285.95, -51.57, 0, 1)),
    "hand-insert": ((-299.63, -50.07, 0, 1), (-299.65, -50.51, 0, 1), (-299.65, -54.89, 0, 1)),
    "drawer-close": ((-278.25, -76.73, 0.12, 1), (-234.72, -77.84, 0.36, 1), (-293.99, -72.41, 0.04, 1)),
    "drawer-open": ((-280.76, -71.41, 0, 1), (-280.89, -69.93, 0, 1), (-281.36, -76.06, 0, 1)),
    "faucet-open": ((-261.37, -47.10, 0, 1), (-260.35, -46.28, 0, 1), (-263.96, -48.10, 0, 1)),
    "faucet-close": ((-259.87, -50.82, 0, 1), (-258.94, -50.94, 0, 1), (-266.72, -49.93, 0, 1)),
    "hammer": ((-285.85, -59.89, 0, 1), (-285.64, -59.92, 0, 1), (-286.60, -67.12, 0, 1)),
    "handle-press-side": ((-292.53, -36.09, 0, 1), (-292.59, -38.17, 0, 1), (-293.76, -40.28, 0, 1)),
    "handle-press": ((-289.90, -29.54, 0.04, 1), (-280.70, -28.13, 0.08, 1), (-293.63, -47.25, 0, 1)),
    "handle-pull-side": ((-299.69, -73.57, 0, 1), (-299.66, -68.22, 0, 1), (-299.65, -88.22, 0, 1)),
    "handle-pull": ((-298.47, -103.34, 0, 1), (-298.79, -102.62, 0, 1), (-299.03, -112.05, 0, 1)),
    "lever-pull": ((-292.00, -64.51, 0, 1), (-291.69, -66.78, 0, 1), (-292.01, -89.87, 0, 1)),
    "pick-place-wall": ((-300.00, -71.77, 0, 1), (-300.00, -70.66, 0, 1), (-300.00, -73.12, 0, 1)),
    "pick-out-of-hole": ((-299.78, -112.52, 0, 1), (-299.78, -109.90, 0, 1), (-299.78, -112.13, 0, 1)),
    "pick-place": ((-299.79, -49.25, 0, 1), (-299.78, -49.22, 0, 1), (-299.77, -56.68, 0, 1)),
    "plate-slide": ((-289.81, -44.42, 0, 1), (-290.39, -45.06, 0, 1), (-289.71, -45.14, 0, 1)),
    "plate-slide-side": ((-296.48, -41.88, 0, 1), (-296.94, -41.37, 0, 1), (-295.67, -41.99, 0, 1)),
    "plate-slide-back": ((-294.94, -57.43, 0, 1), (-294.95, -53.58, 0, 1), (-295.27, -90.28, 0, 0.84)),
    "plate-slide-back-side": ((-294.28, -41.93, 0, 1), (-295.21, -37.70, 0, 1), (-294.76, -49.80, 0, 1)),
    "peg-insert-side": ((-299.74, -128.69, 0, 0.8), (-299.75, -93.30, 0, 0.96), (-299.77, -116.30, 0, 0.88)),
    "peg-unplug-side": ((-299.11, -116.24, 0, 0.96), (-299.29, -121.89, 0, 0.92), (-299.15, -98.45, 0, 1)),
    "soccer": ((-299.05, -97.51, 0, 0.84), (-299.18, -71.87, 0, 0.96), (-299.25, -131.86, 0, 0.76)),
    "stick-push": ((-299.64, -65.79, 0, 1), (-299.65, -65.14, 0, 1), (-299.61, -64.88, 0, 1)),
    "stick-pull": ((-299.57, -130.30, 0, 0.84), (-299.67, -122.34, 0, 0.84), (-299.63, -116.42, 0, 0.96)),
    "push": ((-299.05, -51.33, 0, 1), (-299.20, -52.41, 0, 1), (-299.24, -53.67, 0, 1)),
    "push-wall": ((-299.13, -69.85, 0, 1), (-299.16, -67.64, 0, 1), (-299.06, -67.40, 0, 1)),
    "push-back": ((-299.83, -145.74, 0, 0.8), (-299.82, -167.91, 0, 0.68), (-299.81, -116.21, 0, 1)),
    "reach": ((-274.98, -31.76, 0, 1), (-270.47, -32.22, 0.04, 1), (-283.72, -48.60, 0, 1)),
    "reach-wall": ((-275.43, -33.65, 0, 1), (-272.29, -31.63, 0.04, 1), (-283.41, -58.88, 0, 1)),
    "shelf-place": ((-300.00, -77.86, 0, 1), (-300.00, -91.88, 0, 0.96), (-300.00, -88.46, 0, 0.96)),
    "sweep-into": ((-297.96, -49.42, 0, 1), (-297.38, -113.99, 0.04, 0.72), (-297.92, -62.04, 0, 1)),
    "sweep": ((-298.62, -76.49, 0, 1), (-298.65, -72.58, 0, 1), (-297.92, -86.08, 0, 1)),
    "window-open": ((-293.33, -83.23, 0, 1), (-293.07, -83.53, 0, 1), (-293.75, -85.82, 0, 1)),
    "window-close": ((-290.89, -74.61, 0, 1), (-290.92, -73.99, 0, 1), (-291.37, -79.04, 0, 1)),
}
"""Task -> for train, interpolated and extrapolated: mean return of random and of the expert, success rate of each.

Means of 25 episodes each; `python -m toolkit.envs.metaworld [SUITE ...]` prints these lines.
"""
