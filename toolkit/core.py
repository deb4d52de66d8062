"""The words everything else speaks: Spec, Episode, Batch, Step, Policy, Learner, LearnerConfig.

This module imports nothing of ours and does not import torch, so configs, records and the command
line stay light. Letters in shapes: T steps of an episode, N environments, B windows of L steps,
O observation numbers, A action numbers, G goal numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from torch import Generator, Tensor

Array = np.ndarray
Family = Literal["supervised", "unsupervised", "offline_rl", "model_based"]
Exactness = Literal["exact", "bound", "none"]
"""What a log probability is: the density itself, a lower bound of it, or nothing that may be compared."""


@dataclass(frozen=True)
class Episode:
    """T steps of one episode. The last observation is the one that follows the last action.

    Raises ValueError, naming the field, if lengths disagree, the episode is empty, a list is ragged, or a number is
    not finite.
    """

    obs: Any  # an array (T+1, ...), or dicts and tuples, nested like the space, whose leaves are (T+1, ...)
    action: Array  # (T, ...) float32, or integers: (T,) for a Discrete space
    reward: Array  # (T,) float32
    terminated: bool  # False: truncated, the last step still bootstraps
    info: dict[str, Array] = field(default_factory=dict)  # per-step extras, (T, ...)
    columns: dict[str, Any] = field(default_factory=dict)  # behaviour, context, task, seed, success

    def __post_init__(self) -> None:
        named = {f"observation {key!r}": values for key, values in self.observations().items()}
        arrays = {name: _array(name, values) for name, values in ({"action": self.action} | named).items()}
        reward = _array("reward", self.reward)
        info = {f"info {key!r}": _array(f"info {key!r}", values) for key, values in self.info.items()}
        steps = len(reward)
        if steps == 0:
            raise ValueError("episode has no steps; record at least one action and its reward")
        if len(arrays["action"]) != steps:
            raise ValueError(
                f"episode has {steps} rewards but {len(arrays['action'])} actions; expected as many of each"
            )
        for name in named:
            if len(arrays[name]) != steps + 1:
                raise ValueError(
                    f"episode has {steps} rewards but {len(arrays[name])} entries of {name}; expected {steps + 1}: "
                    "keep the observation that follows the last action"
                )
        for name, array in info.items():
            if len(array) != steps:
                raise ValueError(f"{name} has {len(array)} entries; expected {steps}, one for each step")
        for name, array in {**arrays, "reward": reward}.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                first = int(np.argwhere(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0, 0])
                raise ValueError(f"{name} is not finite at step {first}; NaN and infinity cannot be stored")

    def __len__(self) -> int:
        """T, the number of steps."""
        return len(self.reward)

    def observations(self) -> dict[str, Array]:
        """The observations by name; see `leaves`."""
        return leaves(self.obs)


def leaves(obs: Any) -> dict[str, Any]:
    """An observation's leaves by name: keys of nested dicts, and places in tuples, joined with "/".

    {"arm": {"angle": x}, "cameras": (y,)} has "arm/angle" and "cameras/0"; a bare array is "observation".
    """
    if not isinstance(obs, Mapping | tuple):
        return {"observation": obs}
    found: dict[str, Any] = {}
    for key, part in obs.items() if isinstance(obs, Mapping) else enumerate(obs):
        if isinstance(part, Mapping | tuple):
            found |= {f"{key}/{name}": leaf for name, leaf in leaves(part).items()}
        else:
            found[str(key)] = part
    return found


def _array(name: str, values: Any) -> Array:
    """`values` as an array with a first axis. Raises ValueError naming the field."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name} is not an array ({error}); give every step the same shape") from None
    if array.ndim == 0:
        raise ValueError(f"{name} is {values!r}; expected an array with one entry a step")
    return array


@dataclass(frozen=True)
class Moments:
    """Mean, standard deviation, least and greatest value of each dimension; float32 arrays (D,)."""

    mean: Array
    std: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, values: Array) -> Moments:
        """Moments over axis 0 of `values` (n, D), n >= 1; computed in float64, std without Bessel's correction."""
        wide = np.asarray(values, np.float64)
        parts = (wide.mean(0), wide.std(0), wide.min(0), wide.max(0))
        return cls(*(np.asarray(part, np.float32) for part in parts))


@dataclass(frozen=True)
class Spec:
    """What a learner may know of its data before it is built, measured on the view it trains on."""

    obs_dim: int  # O, all vector observations in schema order; goal keys come last
    action_dim: int  # A; for discrete actions the number of actions (they are one-hot in a Batch)
    discrete: bool
    goal_dim: int  # G, the last G of the O observation numbers; 0 without goals
    action_low: Array  # (A,) float32 limits; 0 and 1 for discrete actions
    action_high: Array  # (A,)
    horizon: int  # the longest episode, in steps
    episodes: int
    transitions: int
    obs: Moments  # (O,)
    delta: Moments  # (O,) next observation minus observation
    action: Moments  # (A,)
    reward: Moments  # (1,)
    returns: Moments  # (1,) an episode's undiscounted sum of rewards
    obs_resolution: Array  # (O,) bin widths for code lengths, raw units
    action_resolution: Array  # (A,)
    images: dict[str, tuple[int, ...]] = field(default_factory=dict)  # key -> (H, W, C) of Batch.images

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, limits that are infinite as words; `from_json` gives back an equal Spec."""

        def plain(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                return [float(x) if np.isfinite(x) else str(float(x)) for x in value]
            if isinstance(value, Moments):
                return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
            if isinstance(value, dict):
                return {name: list(shape) for name, shape in value.items()}
            return value

        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Spec:
        """Inverse of `to_json`. Raises KeyError or TypeError if a field is missing or unknown."""

        def rich(value: Any) -> Any:
            if isinstance(value, list):
                return np.asarray(value, np.float32)
            if isinstance(value, dict):
                return Moments(**{k: rich(v) for k, v in value.items()})
            return value

        images = {str(name): tuple(int(n) for n in shape) for name, shape in data.get("images", {}).items()}
        return cls(**{k: rich(v) for k, v in data.items() if k != "images"}, images=images)


@dataclass(frozen=True)
class Batch:
    """B windows of L steps; `obs` has one step more than the rest. A transition is a window of length 1.

    Steps past the end of an episode are zero and have `valid` False. Treat every tensor as read-only:
    batches may share memory with each other.
    """

    obs: Tensor  # (B, L+1, O) float32
    action: Tensor  # (B, L, A) float32; one-hot for discrete actions
    reward: Tensor  # (B, L) float32
    terminated: Tensor  # (B, L) bool; a truncated step is not terminated and still bootstraps
    valid: Tensor  # (B, L) bool; False past the episode's end
    episode: Tensor  # (B,) int64; position of the window's episode in the view it was drawn from
    goal: Tensor | None = None  # (B, L+1, G) float32, the last G numbers of obs
    images: dict[str, Tensor] | None = None  # key -> (B, L+1, H, W, C) uint8; stacked frames are further channels
    next_action: Tensor | None = None  # (B, L, A) float32; with n-step returns, the action n steps on
    next_valid: Tensor | None = None  # (B, L) bool; False where the episode has no next action (it is zero there):
    # after a terminated step none is needed, after a truncated end it is unknown, so leave that step out of the loss
    discount: Tensor | None = None  # (B, L) float32; of the next observation's value, besides (1 - terminated)
    return_to_go: Tensor | None = None  # (B, L) float32; discounted rewards from each step to its episode's end


@dataclass(frozen=True)
class Step:
    """What N environments show at one moment. Where `first` is set, a policy forgets that row's past."""

    obs: Array  # (N, O) float32
    reward: Array  # (N,) float32, of the transition that led here; 0 where first
    first: Array  # (N,) bool
    images: dict[str, Array] | None = None  # key -> (N, H, W, C) uint8, where the data have images


@runtime_checkable
class Policy(Protocol):
    """Acts in N environments at once; state is kept per row and reset where `Step.first` is set."""

    def act(self, step: Step) -> Array:
        """Actions (N, A) float32 within the limits, or (N,) int64 for discrete actions."""


@dataclass(frozen=True)
class Followed:
    """Where N sequences of H actions lead from each of M states; raw units."""

    obs: Tensor  # (M, N, H, O) float32, after each action
    reward: Tensor  # (M, N, H) float32
    end: Tensor  # (M, N, H) float32, the probability that this step ends the episode, if none did before


@runtime_checkable
class Planner(Policy, Protocol):
    """A policy that ranks action sequences by where a model says they lead; another can be asked in its place."""

    def following(self, follow: Callable[[Tensor], Followed], /) -> Policy:
        """The same search, its sequences ranked by what `follow` says of actions (M, N, H, A), one-hot if discrete.

        M are the rows of the `Step` that is acted on, whose present states `follow` knows. All that is no prediction
        stays: the search, its proposals, a reward or a value that was given. There is no doubt to penalise.
        """


@runtime_checkable
class Reactive(Policy, Protocol):
    """A policy that looks at the present observation alone: it can be evaluated on data, and exported.

    One that remembers, plans ahead or asks for a return does not have all three of these.
    """

    @property
    def deterministic(self) -> bool:
        """Whether `choose` gives the same actions every time; otherwise it draws from the policy's own stream."""

    @property
    def device(self) -> str:
        """Where `choose` computes."""

    def choose(self, obs: Tensor, /) -> Tensor:
        """Raw observations (N, O) float32 -> actions (N, A) float32 within the limits, or (N,) int64."""


@runtime_checkable
class Learner(Protocol):
    """Parameters, optimisers and how they move. The loop is not its business."""

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step; metrics are 0-d tensors left on the device, unsynchronised."""

    def policy(self, *, seed: int) -> Policy:
        """A fresh policy for one evaluation; a world model returns a planner."""

    def state_dict(self) -> dict[str, Any]:
        """Everything: parameters, optimisers, RNG, normaliser, step.

        Nested dicts whose leaves are tensors, numbers, strings, booleans, None or lists of numbers.
        Continuing from it equals never having stopped, bit for bit.
        """

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`, on a learner built from the same config, spec and seed."""


@runtime_checkable
class Surveying(Protocol):
    """A learner that goes through all its training data once before its first update, as a search for neighbours must.

    It does so again where a run resumes: what it gathers is no part of its state.
    """

    def survey(self, episodes: Iterable[tuple[Tensor, Tensor]], /) -> None:
        """Raw obs (T, O) and action (T, A), one-hot if discrete, of each training episode in order, on the CPU."""


@runtime_checkable
class Staged(Protocol):
    """A learner whose update counts rows, keeps some or looks at results around one part that does none of it.

    `--compile` compiles that part alone. `update(batch)` is `update_with(self.fit, batch)`.
    """

    def fit(self, *rows: Any) -> dict[str, Tensor]:
        """The gradient steps, on tensors or tuples of them, with any number of rows in front."""

    def update_with(self, fit: Callable[..., dict[str, Tensor]], batch: Batch, /) -> dict[str, Tensor]:
        """The whole update, `fit` in place of its own."""


@runtime_checkable
class ActionDensity(Protocol):
    """A learner that gives a density over actions, and so has a code length for them."""

    def action_log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density in nats, raw action units; obs (..., O), action (..., A) -> (...)."""


@dataclass(frozen=True)
class Imagined:
    """Where one step in a learned model leads from B states; raw units."""

    obs: Tensor  # (B, O) float32
    reward: Tensor  # (B,) float32
    end: Tensor  # (B,) float32, the probability that this step terminates the episode
    disagreement: (
        Tensor  # (B,) float32, between members about obs: standard deviation, in the data's, mean over numbers
    )
    noise: Tensor  # (B,) float32, norm of the predicted standard deviations of obs and reward, the greatest of a member


@runtime_checkable
class Dynamics(Protocol):
    """A learner that has a model of what actions do. The toolkit imagines with it and diagnoses it by this alone."""

    def imagine(self, obs: Tensor, action: Tensor, *, generator: Generator | None = None) -> Imagined:
        """One step from raw obs (B, O) with action (B, A), one-hot for discrete actions, on the learner's device.

        With a generator the observation and the reward are drawn as the model believes they fall, each row by a
        member of its own where there are several; without one they are expectations.
        """

    def unseen(self, episodes: int) -> Array:
        """Which of `episodes` training episodes gave no gradient: their positions (n,), perhaps none."""


@runtime_checkable
class ActionMass(Protocol):
    """A learner that says how probable a continuous action's bin is, as it would be executed: clipped to the limits."""

    exactness: Exactness

    def action_log_mass(self, obs: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """log P(low < action <= high) in nats; obs (B, O), edges (B, A) in raw units, float64 -> (B,) float64.

        Edges may be infinite: both, where a dimension does not count; one, at a limit, where clipped actions lie.
        """


@dataclass(frozen=True)
class Reached:
    """B transitions by their bins: edges of what followed, raw units, float64, infinite where `ActionMass` says."""

    obs: Tensor  # (B, O) float32, where the step began
    action: Tensor  # (B, A) float32
    next_low: Tensor  # (B, O)
    next_high: Tensor  # (B, O)
    reward_low: Tensor  # (B,)
    reward_high: Tensor  # (B,)
    terminated: Tensor  # (B,) bool


@runtime_checkable
class TransitionMass(Protocol):
    """A learner that says how probable the bin of the next observation and reward is, and the end."""

    exactness: Exactness

    def transition_log_mass(self, reached: Reached) -> Tensor:
        """Log probability in nats, (B,) float64, of all the bins and of the end."""


@runtime_checkable
class StateValue(Protocol):
    """A learner that says what a state is worth to its own policy."""

    def state_value(self, obs: Tensor) -> Tensor:
        """Discounted sum of the rewards still to come, in the data's own units; raw obs (N, O) -> (N,)."""


@runtime_checkable
class ActionValue(StateValue, Protocol):
    """A learner that also says what an action is worth, by its critic; its error of one step is its TD error."""

    @property
    def discount(self) -> float:
        """Weight of the next step's value."""

    def action_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """As `state_value`, if `action` is taken first; raw obs (N, O), action (N, A), one-hot if discrete -> (N,)."""


class Reward(Protocol):
    """A reward that is known: a pure function of a step, in the data's units."""

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor, /) -> Tensor:
        """Raw obs (N, O), action (N, A), one-hot if discrete, next_obs (N, O) -> (N,)."""


@dataclass(frozen=True)
class Given:
    """What a learner may be handed besides data: learners trained before, and the suite's reward."""

    learners: Mapping[str, Learner] = field(default_factory=dict)  # by the option that named the run
    reward: Reward | None = None  # None if the suite states none


@runtime_checkable
class Assisted(Protocol):
    """A learner that takes what it is given, after it was built and before its policy is asked for."""

    def receive(self, given: Given) -> None:
        """Raises ValueError if something asked for is missing, or cannot serve."""


@dataclass(frozen=True)
class Needs:
    """What a learner asks of the data besides observations and actions; `toolkit.feed` sees that batches hold it."""

    window: int = 1
    """Steps in a window: 1 for transitions, or a sequence length."""
    reward: bool = False
    """Whether it learns from rewards."""
    goal: bool = False
    """Whether observations must hold a goal."""
    next_action: bool = False
    """Whether it needs the action that followed: Batch.next_action and next_valid."""
    n_step: int = 1
    """Rewards summed into one; with more than 1, Batch.discount weighs the observation that many steps on."""
    discount: float | None = None
    """Of the n-step sums and the returns to go."""
    returns_to_go: bool = False
    """Whether it needs Batch.return_to_go."""
    hindsight: float = 0.0
    """Share of windows shown with a goal that their own episode reached later (Batch.goal, rewards zero)."""
    achieved: tuple[int, ...] = ()
    """With hindsight: goal number i is observation number achieved[i]."""
    top_fraction: float = 1.0
    """Train on this share of the episodes only, those of the highest return."""


@dataclass(frozen=True)
class LearnerConfig:
    """Base of every learner's configuration: a frozen dataclass of numbers, strings and tuples.

    `name` is the learner's name everywhere (command line, records, figures); `family` its kind; `paper` its
    source, and `actions` the kinds of action it takes.
    """

    name: ClassVar[str]
    family: ClassVar[Family]
    takes_images: ClassVar[bool] = False  # whether it reads Batch.images; if not, it refuses data of images alone
    paper: ClassVar[str] = ""  # arXiv id
    actions: ClassVar[tuple[Literal["continuous", "discrete"], ...]] = ("continuous",)
    runs: ClassVar[tuple[str, ...]] = ()  # options that name a trained run, or None; the learner is `Assisted` then

    @property
    def compiles(self) -> bool:
        """Whether `--compile` may compile its update, or the `fit` of a `Staged` learner: it then draws all its random
        numbers before the first loss, asks no tensor for its value, and changes no rate from step to step."""
        return False

    @property
    def needs(self) -> Needs:
        """What this configuration asks of the data; transitions, unless a learner says otherwise."""
        return Needs()

    def build(self, spec: Spec, *, seed: int, device: str) -> Learner:
        """A new learner for data like `spec`. Raises ValueError if the data cannot serve it."""
        raise NotImplementedError(f"{type(self).__name__} must define build(spec, *, seed, device)")


def child_seed(root: int, *names: str | int) -> int:
    """A 63-bit seed for a named child of `root`: same names, same seed; other names, an independent one."""
    words = [root, *(int.from_bytes(str(name).encode(), "little") for name in names)]
    state = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return int(state[0]) | (int(state[1] & 0x7FFFFFFF) << 32)
