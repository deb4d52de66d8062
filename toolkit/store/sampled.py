"""What stores, views and mixtures have in common: batches are drawn from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from toolkit.sampling import Options, Relabel, Sampler, Source
from toolkit.store.packed import Tier
from toolkit.store.schema import Schema


class Sampled(ABC):
    """Anything with a schema and a stream of windows."""

    schema: Schema

    @abstractmethod
    def tier(self, wanted: Tier) -> Literal["memory", "mapped", "streaming"]:
        """The tier that `sampler` would use. Raises ValueError for an unknown one."""

    @abstractmethod
    def source(self, options: Options, *, tier: Tier, buffer: int, seed: int, device: str) -> Source:
        """The stream of windows behind `sampler`."""

    def sampler(
        self,
        *,
        window: int = 1,
        batch_size: int = 256,
        seed: int,
        device: str = "cpu",
        next_action: bool = False,
        n_step: int = 1,
        discount: float | None = None,
        returns_to_go: bool = False,
        frame_stack: int = 1,
        relabel: Relabel | None = None,
        tier: Tier = "auto",
        buffer: int = 1 << 19,
        prefetch: bool = False,
    ) -> Sampler:
        """An endless, seeded stream of batches of these episodes; see `Sampler` and `Options`.

        The tiers "memory" and "mapped" (a packed file, see `PackedFile`) serve the same stream, uniform with
        replacement. "streaming" reads the store in chunks through a shuffle buffer of `buffer` rows, every transition
        once an epoch. "auto" takes memory where the packed rows fit half of what is available, then mapped where the
        disk has room for them. Raises ValueError where options contradict each other or the data.
        """
        options = Options(window, next_action, n_step, discount, returns_to_go, frame_stack, relabel)
        options.check(self.schema.obs_dim, self.schema.goal_dim)
        source = self.source(options, tier=tier, buffer=buffer, seed=seed, device=device)
        goal_dim = self.schema.goal_dim
        return Sampler(source, options, goal_dim=goal_dim, batch_size=batch_size, device=device, prefetch=prefetch)
