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
    "assembly": (
        (-293.1623, -79.0344, 0, 1),
        (-293.2534, -78.9784, 0, 1),
        (-293.6041, -81.9408, 0, 1),
    ),
    "basketball": (
        (-299.6640, -108.4020, 0, 0.88),
        (-299.6736, -100.6478, 0, 0.92),
        (-299.6624, -87.4556, 0, 1),
    ),
    "bin-picking": (
        (-299.7050, -111.4755, 0, 1),
        (-299.7043, -115.0289, 0, 1),
        (-299.7165, -122.1358, 0, 1),
    ),
    "box-close": (
        (-290.3256, -107.4567, 0, 0.96),
        (-290.1952, -120.1983, 0, 0.84),
        (-291.0842, -105.5838, 0, 0.96),
    ),
    "button-press-topdown": (
        (-294.1581, -57.1586, 0, 1),
        (-294.6317, -57.0616, 0, 1),
        (-295.0626, -59.2345, 0, 1),
    ),
    "button-press-topdown-wall": (
        (-291.0622, -49.9584, 0, 1),
        (-290.9815, -50.2922, 0, 1),
        (-291.8229, -50.7431, 0, 1),
    ),
    "button-press": (
        (-294.4328, -57.5268, 0, 1),
        (-293.8627, -57.6501, 0, 1),
        (-295.4028, -58.4724, 0, 1),
    ),
    "button-press-wall": (
        (-298.0913, -72.0488, 0, 0.92),
        (-297.5046, -55.5704, 0, 1),
        (-298.3917, -61.7343, 0, 1),
    ),
    "coffee-button": (
        (-290.7507, -35.5524, 0.04, 1),
        (-286.3584, -34.3304, 0.04, 1),
        (-295.1188, -41.1569, 0, 1),
    ),
    "coffee-pull": (
        (-299.3252, -74.8698, 0, 1),
        (-299.3111, -76.0363, 0, 1),
        (-299.3759, -73.9588, 0, 1),
    ),
    "coffee-push": (
        (-299.3156, -53.0034, 0, 1),
        (-299.3122, -51.9839, 0, 1),
        (-299.3878, -55.3351, 0, 1),
    ),
    "dial-turn": (
        (-295.5019, -61.5551, 0, 1),
        (-296.4071, -61.3631, 0, 1),
        (-296.0865, -67.7795, 0, 1),
    ),
    "disassemble": (
        (-294.2639, -129.2649, 0, 0.92),
        (-295.2750, -147.0339, 0, 0.88),
        (-294.0264, -116.5087, 0, 1),
    ),
    "door-close": (
        (-298.9315, -60.1090, 0, 1),
        (-299.0247, -59.0358, 0, 1),
        (-298.6834, -55.5777, 0, 1),
    ),
    "door-lock": (
        (-275.5680, -71.7858, 0.04, 1),
        (-282.5940, -69.6811, 0, 1),
        (-284.2227, -75.3668, 0, 1),
    ),
    "door-open": (
        (-291.2584, -68.2548, 0, 1),
        (-291.2363, -83.2111, 0, 0.92),
        (-291.1015, -88.4280, 0, 0.88),
    ),
    "door-unlock": (
        (-286.0856, -39.6984, 0, 1),
        (-286.5422, -38.1737, 0, 1),
        (-285.9479, -51.5720, 0, 1),
    ),
    "hand-insert": (
        (-299.6256, -50.0658, 0, 1),
        (-299.6536, -50.5058, 0, 1),
        (-299.6528, -54.8852, 0, 1),
    ),
    "drawer-close": (
        (-278.2536, -76.7291, 0.12, 1),
        (-234.7223, -77.8420, 0.36, 1),
        (-293.9856, -72.4132, 0.04, 1),
    ),
    "drawer-open": (
        (-280.7553, -71.4121, 0, 1),
        (-280.8932, -69.9323, 0, 1),
        (-281.3639, -76.0645, 0, 1),
    ),
    "faucet-open": (
        (-261.3720, -47.0960, 0, 1),
        (-260.3495, -46.2822, 0, 1),
        (-263.9608, -48.0956, 0, 1),
    ),
    "faucet-close": (
        (-259.8747, -50.8204, 0, 1),
        (-258.9431, -50.9364, 0, 1),
        (-266.7161, -49.9253, 0, 1),
    ),
    "hammer": (
        (-285.8539, -59.8868, 0, 1),
        (-285.6449, -59.9246, 0, 1),
        (-286.6010, -67.1248, 0, 1),
    ),
    "handle-press-side": (
        (-292.5305, -36.0928, 0, 1),
        (-292.5856, -38.1717, 0, 1),
        (-293.7555, -40.2803, 0, 1),
    ),
    "handle-press": (
        (-289.8975, -29.5397, 0.04, 1),
        (-280.6966, -28.1283, 0.08, 1),
        (-293.6331, -47.2500, 0, 1),
    ),
    "handle-pull-side": (
        (-299.6855, -73.5718, 0, 1),
        (-299.6586, -68.2193, 0, 1),
        (-299.6541, -88.2221, 0, 1),
    ),
    "handle-pull": (
        (-298.4742, -103.3371, 0, 1),
        (-298.7919, -102.6245, 0, 1),
        (-299.0316, -112.0452, 0, 1),
    ),
    "lever-pull": (
        (-292.0024, -64.5119, 0, 1),
        (-291.6921, -66.7786, 0, 1),
        (-292.0149, -89.8666, 0, 1),
    ),
    "pick-place-wall": (
        (-300.0000, -71.7659, 0, 1),
        (-300.0000, -70.6582, 0, 1),
        (-300.0000, -73.1157, 0, 1),
    ),
    "pick-out-of-hole": (
        (-299.7783, -112.5218, 0, 1),
        (-299.7763, -109.9011, 0, 1),
        (-299.7798, -112.1259, 0, 1),
    ),
    "pick-place": (
        (-299.7889, -49.2530, 0, 1),
        (-299.7828, -49.2166, 0, 1),
        (-299.7711, -56.6808, 0, 1),
    ),
    "plate-slide": (
        (-289.8064, -44.4238, 0, 1),
        (-290.3871, -45.0591, 0, 1),
        (-289.7143, -45.1426, 0, 1),
    ),
    "plate-slide-side": (
        (-296.4793, -41.8768, 0, 1),
        (-296.9441, -41.3661, 0, 1),
        (-295.6666, -41.9909, 0, 1),
    ),
    "plate-slide-back": (
        (-294.9369, -57.4264, 0, 1),
        (-294.9527, -53.5753, 0, 1),
        (-295.2676, -90.2772, 0, 0.84),
    ),
    "plate-slide-back-side": (
        (-294.2845, -41.9328, 0, 1),
        (-295.2101, -37.6952, 0, 1),
        (-294.7563, -49.8018, 0, 1),
    ),
    "peg-insert-side": (
        (-299.7403, -128.6915, 0, 0.8),
        (-299.7527, -93.2950, 0, 0.96),
        (-299.7739, -116.3005, 0, 0.88),
    ),
    "peg-unplug-side": (
        (-299.1135, -116.2367, 0, 0.96),
        (-299.2852, -121.8942, 0, 0.92),
        (-299.1488, -98.4477, 0, 1),
    ),
    "soccer": (
        (-299.0512, -97.5061, 0, 0.84),
        (-299.1824, -71.8665, 0, 0.96),
        (-299.2522, -131.8552, 0, 0.76),
    ),
    "stick-push": (
        (-299.6375, -65.7864, 0, 1),
        (-299.6478, -65.1444, 0, 1),
        (-299.6108, -64.8772, 0, 1),
    ),
    "stick-pull": (
        (-299.5685, -130.2995, 0, 0.84),
        (-299.6690, -122.3424, 0, 0.84),
        (-299.6324, -116.4219, 0, 0.96),
    ),
    "push": (
        (-299.0513, -51.3316, 0, 1),
        (-299.2050, -52.4137, 0, 1),
        (-299.2382, -53.6715, 0, 1),
    ),
    "push-wall": (
        (-299.1348, -69.8485, 0, 1),
        (-299.1620, -67.6406, 0, 1),
        (-299.0570, -67.4047, 0, 1),
    ),
    "push-back": (
        (-299.8267, -145.7368, 0, 0.8),
        (-299.8211, -167.9089, 0, 0.68),
        (-299.8079, -116.2052, 0, 1),
    ),
    "reach": (
        (-274.9838, -31.7641, 0, 1),
        (-270.4687, -32.2218, 0.04, 1),
        (-283.7183, -48.6025, 0, 1),
    ),
    "reach-wall": (
        (-275.4300, -33.6461, 0, 1),
        (-272.2934, -31.6272, 0.04, 1),
        (-283.4058, -58.8771, 0, 1),
    ),
    "shelf-place": (
        (-300.0000, -77.8620, 0, 1),
        (-300.0000, -91.8767, 0, 0.96),
        (-300.0000, -88.4648, 0, 0.96),
    ),
    "sweep-into": (
        (-297.9580, -49.4182, 0, 1),
        (-297.3802, -113.9919, 0.04, 0.72),
        (-297.9190, -62.0449, 0, 1),
    ),
    "sweep": (
        (-298.6189, -76.4927, 0, 1),
        (-298.6507, -72.5837, 0, 1),
        (-297.9158, -86.0792, 0, 1),
    ),
    "window-open": (
        (-293.3330, -83.2288, 0, 1),
        (-293.0733, -83.5251, 0, 1),
        (-293.7521, -85.8214, 0, 1),
    ),
    "window-close": (
        (-290.8896, -74.6079, 0, 1),
        (-290.9189, -73.9949, 0, 1),
        (-291.3743, -79.0385, 0, 1),
    ),
}
"""Task -> for train, interpolated and extrapolated: mean return of random and expert, success of random and expert."""
