"""Behaviour policies of one episode: expert or weaker, random in blocks, with noise that may hang together in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from gymnasium import spaces

from toolkit.core import Array
from toolkit.dials import Dials
from toolkit.envs import Behaviour, Suite

BLOCK = 10
"""Mean length, in steps, of the blocks in which the random policy or the other acts; steps "ou" noise remembers."""


class NamedBehaviour(Behaviour, Protocol):
    """A behaviour with the name that stands in the episode's behaviour column."""

    name: str


class Mixture:
    """One behaviour and the random policy in turns; see `behaviour_policy`. `acting` says who chose the last action."""

    def __init__(self, suite: Suite, context: Array, dials: Dials, *, base: str, rng: np.random.Generator) -> None:
        self.base, self.coverage, self.noise, self.rng = base, dials.coverage, dials.noise, rng
        self.name = behaviour_name(dials, base=base)
        self.acting = ""  # `base` or "random" once there was an action
        self._policy = suite.behaviour(base, context, rng=rng)
        self._random = suite.behaviour("random", context, rng=rng)
        self._left = 0  # steps left of the present block
        if dials.noise > 0:
            space = suite.action_space
            if not isinstance(space, spaces.Box):
                raise ValueError(f"noise is {dials.noise:g} but the actions of suite {suite.name!r} are not continuous")
            self._low, self._high = space.low, space.high
            self._error = NOISES[dials.exploration](space.low.shape, suite.max_steps, rng)

    def __call__(self, obs: dict[str, Array]) -> Array:
        """obs key -> (D,); an action (A,) float32 within the limits, or an integer."""
        if self._left == 0:
            self._left = int(self.rng.geometric(1 / BLOCK))
            self.acting = "random" if self.rng.random() < self.coverage else self.base
        self._left -= 1
        if self.acting == "random":
            return self._random(obs)
        action = self._policy(obs)
        if self.noise == 0:
            return action
        error = self.noise * (self._high - self._low) / 2 * self._error()
        return np.clip(action + error, self._low, self._high).astype(np.float32)


def behaviour_policy(
    suite: Suite, context: Array, dials: Dials, *, base: str = "expert", rng: np.random.Generator
) -> Mixture:
    """A behaviour for one episode in `context`: `base`, how much of the time random, and how noisy the rest.

    Time is cut into blocks of geometric length, 10 steps in the mean. In each block the random policy acts with
    probability `dials.coverage` and else `base`, so coverage is the expected share of random steps at every
    moment of an episode. `dials.noise` is the standard deviation of the Gaussian noise on the actions of `base`, as
    a share of half the action range, and `dials.exploration` how it hangs together; the noise waits while the random
    policy acts, and noisy actions are clipped to the limits. Coverage 0 and noise 0 is `base` exactly, coverage 1
    the random policy.

    Raises ValueError for a behaviour the suite does not have, or noise on discrete actions.
    """
    return Mixture(suite, context, dials, base=base, rng=rng)


def behaviour_name(dials: Dials, *, base: str = "expert") -> str:
    """What stands in the behaviour column: who acts, how much of it is random, and with what noise.

    "expert", "random", "mixed-0.30" (of the expert), "medium-mixed-0.30"; and at the end "-noise-0.10", "-ou-0.10"
    or "-pink-0.10" where there are actions with that noise. Numbers are exact, with two decimals at least.
    """
    if dials.coverage == 1 or base == "random":
        return "random"
    mixed = f"mixed-{_exact(dials.coverage)}" if base == "expert" else f"{base}-mixed-{_exact(dials.coverage)}"
    name = base if dials.coverage == 0 else mixed
    kind = "noise" if dials.exploration == "white" else dials.exploration
    return f"{name}-{kind}-{_exact(dials.noise)}" if dials.noise else name


def _exact(number: float) -> str:
    short = f"{number:.2f}"
    return short if float(short) == number else repr(float(number))


Noise = Callable[[], Array]  # each call gives the next (A,), each number of mean 0 and variance 1


def white(shape: tuple[int, ...], steps: int, rng: np.random.Generator) -> Noise:
    """Independent from step to step."""
    return lambda: rng.standard_normal(shape)


def ornstein_uhlenbeck(shape: tuple[int, ...], steps: int, rng: np.random.Generator) -> Noise:
    """Stationary, with correlation exp(-k/10) between steps k apart."""
    keep = np.exp(-1 / BLOCK)
    state = rng.standard_normal(shape)

    def following() -> Array:
        nonlocal state
        given, state = state, keep * state + np.sqrt(1 - keep**2) * rng.standard_normal(shape)
        return given

    return following


def pink(shape: tuple[int, ...], steps: int, rng: np.random.Generator) -> Noise:
    """Power 1/f, cut off at one period an episode (Eberhard et al., "Pink noise is all you need", ICLR 2023).

    By Timmer and Koenig (1995): a Gaussian spectrum, transformed. At every step its variance is 1.
    """
    length = steps + steps % 2
    frequency = np.fft.rfftfreq(length)
    frequency[0] = frequency[1]
    amplitude = frequency**-0.5
    real, imaginary = rng.standard_normal((2, *shape, len(amplitude)))
    ends = [0, -1]  # frequencies that have no phase
    imaginary[..., ends] = 0
    power = 4 * np.sum(amplitude[1:-1] ** 2) + np.sum(amplitude[ends] ** 2)
    series = np.fft.irfft((real + 1j * imaginary) * amplitude, length) * length / np.sqrt(power)
    moments = iter(np.moveaxis(series, -1, 0))
    return lambda: next(moments)


NOISES: dict[str, Callable[[tuple[int, ...], int, np.random.Generator], Noise]] = {
    "white": white,
    "ou": ornstein_uhlenbeck,
    "pink": pink,
}
