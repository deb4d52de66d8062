"""The laws of a store, whatever it stands on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from toolkit.core import Episode
from toolkit.store.backend import Backend
from toolkit.store.conformance.backends import LIMIT, fresh, must, raises
from toolkit.store.files import StoreError
from toolkit.store.keys import InfoKey, Key
from toolkit.store.maintain import gc, merge, repair
from toolkit.store.reader import ReplayStore
from toolkit.store.schema import Schema
from toolkit.store.validate import validate

WRITERS = 4  # at once
TURNS = 3  # commits of each

SCHEMA = Schema(
    observations=(
        Key("state", "observation", (3,), (None,) * 3, (None,) * 3, (0.1,) * 3),
        Key("goal", "goal", (2,), (-1.0,) * 2, (1.0,) * 2, (0.1,) * 2),
    ),
    action=Key("action", "action", (2,), (-1.0,) * 2, (1.0,) * 2, (0.1,) * 2),
    discrete=False,
    context_names=("mass",),
    info={"contact": InfoKey((1,))},
    environment={"suite": "laws"},
)


def episode(seed: int) -> Episode:
    """One of 1 to 30 steps, made of numbers that only this seed makes."""
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(1, 31))
    goal = np.tile(rng.uniform(-1, 1, 2).astype(np.float32), (steps + 1, 1))
    return Episode(
        {"state": rng.normal(size=(steps + 1, 3)).astype(np.float32), "goal": goal},
        rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rng.normal(size=steps).astype(np.float32),
        bool(rng.integers(2)),
        {"contact": rng.normal(size=(steps, 1)).astype(np.float32)},
        {"behaviour": f"b{seed % 3}", "context": [float(seed)], "task": "laws", "seed": seed, "success": seed % 2 == 0},
    )


def same(one: Episode, other: Episode) -> bool:
    """Whether two episodes agree in every number and column."""
    arrays = [
        {**e.observations(), **{f"info/{k}": v for k, v in e.info.items()}, "action": e.action, "reward": e.reward}
        for e in (one, other)
    ]
    return (
        arrays[0].keys() == arrays[1].keys()
        and all(np.array_equal(values, arrays[1][name]) for name, values in arrays[0].items())
        and one.terminated == other.terminated
        and dict(one.columns) == dict(other.columns)
    )


class StoreConformance:
    """Subclass it and define `open`; pytest collects the laws."""

    def open(self, place: str) -> Backend:
        """A backend on the place of this name; made at need."""
        raise NotImplementedError("define open(place); see toolkit.store.conformance")

    def _made(self, law: str, seeds: list[int], *, each: int = 99) -> str:
        """The place of a new store of these episodes, `each` of them to a commit."""
        place = fresh(law)
        store = ReplayStore.create(self.open(place), SCHEMA)
        for first in range(0, len(seeds), each):
            with store.writer() as writer:
                for seed in seeds[first : first + each]:
                    writer.append(episode(seed))
        return place

    def _seeds(self, place: str, *, commit: int | None = None) -> list[int]:
        return [int(seed) for seed in ReplayStore.open(self.open(place), commit=commit).episodes["seed"]]

    def test_a_store_is_made_once_and_not_found_before(self) -> None:
        place = fresh("made")
        raises(StoreError, ReplayStore.open, self.open(place))
        store = ReplayStore.create(self.open(place), SCHEMA)
        must(len(store) == 0 and store.commit.number == 0, "a new store is not empty")
        raises(FileExistsError, ReplayStore.create, self.open(place), SCHEMA)
        must(ReplayStore.open(self.open(place)).schema == SCHEMA, "the schema is not what it was made with")

    def test_episodes_come_back_as_they_were_appended(self) -> None:
        place = self._made("episodes", list(range(12)), each=5)
        store = ReplayStore.open(self.open(place))
        must(len(store) == 12 and self._seeds(place) == list(range(12)), "episodes are missing or out of order")
        for index in range(12):
            must(same(store.episode(index), episode(index)), f"episode {index} is not what was appended")
        must(validate(self.open(place)) == [], "a store that was only appended to is not clean")

    def test_nothing_is_visible_before_its_commit(self) -> None:
        place = self._made("visible", [1])
        writer = ReplayStore.open(self.open(place)).writer()
        writer.append(episode(2))
        writer.seal()  # all its rows are in place
        must(self._seeds(place) == [1], "an episode is visible that was not committed")
        writer.commit()
        must(self._seeds(place) == [1, 2], "a committed episode is not visible")

    def test_past_commits_stay_as_they_were(self) -> None:
        place = self._made("past", [5, 6, 7, 8], each=2)
        must(self._seeds(place, commit=0) == [] and self._seeds(place, commit=1) == [5, 6], "the past changed")
        old = ReplayStore.open(self.open(place), commit=1)
        must(same(old.episode(1), episode(6)), "an episode of a past commit changed")
        raises(StoreError, ReplayStore.open, self.open(place), commit=99)

    def test_a_writer_that_was_overtaken_builds_on_the_other(self) -> None:
        place = self._made("rebase", [])
        one, two = (ReplayStore.open(self.open(place)).writer() for _ in range(2))
        one.append(episode(1))
        two.append(episode(2))
        must(one.commit() == 1 and two.commit() == 2, "the second commit did not come after the first")
        one.append(episode(3))
        must(one.commit() == 3, "a writer's second commit did not come after the other's")
        must(sorted(self._seeds(place)) == [1, 2, 3], "a commit was lost")

    def test_writers_at_once_lose_no_commit(self) -> None:
        place = self._made("writers", [])
        start = threading.Barrier(WRITERS)

        def work(number: int) -> list[int]:
            writer = ReplayStore.open(self.open(place)).writer()
            start.wait()
            done = []
            for turn in range(TURNS):
                writer.append(episode(10 * number + turn))
                done.append(writer.commit())
            return done

        with ThreadPoolExecutor(WRITERS) as pool:
            numbers = [number for done in pool.map(work, range(WRITERS)) for number in done]
        must(sorted(numbers) == list(range(1, WRITERS * TURNS + 1)), f"commits are numbered {sorted(numbers)}")
        expected = sorted(10 * number + turn for number in range(WRITERS) for turn in range(TURNS))
        must(sorted(self._seeds(place)) == expected, "a commit was lost")
        must(validate(self.open(place)) == [], "writers at once left damage")

    def test_views_stay_what_they_were(self) -> None:
        place = self._made("views", [1, 2, 3, 4])
        store = ReplayStore.open(self.open(place))
        store.save_view("odd", store.view(np.array([0, 2])))
        with store.writer() as writer:
            writer.append(episode(5))
        again = ReplayStore.open(self.open(place), commit=store.commit.number).view("odd")
        must([int(seed) for seed in again.episodes["seed"]] == [1, 3], "the view is of other episodes")
        must(again.fingerprint == store.view("odd").fingerprint, "the view's fingerprint changed")
        raises(FileExistsError, store.save_view, "odd", store.view(np.array([1])))
        raises(StoreError, ReplayStore.open(self.open(place)).view, "odd")  # it is pinned to the commit before
        raises(StoreError, store.view, "none")
        raises(ValueError, store.save_view, "../out", store)

    def test_batches_do_not_depend_on_the_tier(self) -> None:
        store = ReplayStore.open(self.open(self._made("batches", list(range(8)), each=3)))
        memory = store.sampler(batch_size=16, seed=3, tier="memory").next()
        streamed = store.sampler(batch_size=store.transitions, seed=3, tier="streaming").next()
        rewards = np.sort(np.concatenate([episode(seed).reward for seed in range(8)]))
        must(memory.obs.shape == (16, 2, 5), f"observations have shape {tuple(memory.obs.shape)}")
        must(bool(np.isin(memory.reward.numpy(), rewards).all()), "the memory tier gives rewards that nobody appended")
        must(np.array_equal(np.sort(streamed.reward.numpy().ravel()), rewards), "an epoch is not every transition once")

    def test_a_flipped_bit_is_found_wherever_it_is(self) -> None:
        place = self._made("flipped", [1, 2])
        backend = self.open(place)
        ReplayStore.open(backend).save_view("some", ReplayStore.open(backend).view(np.array([0])))
        backend.flush()
        kinds = ("zarr.json", "commits/", "views/", "/obs/goal/c/", "/reward/zarr.json", "/uid/c/", "/start/c/")
        for number, kind in enumerate(kinds):
            key, size = next((key, size) for key, size in backend.sizes().items() if kind in f"/{key}")
            whole = backend.read(key, limit=LIMIT)
            at = (number * 7919) % size
            backend.write(key, whole[:at] + bytes([whole[at] ^ 1 << number % 8]) + whole[at + 1 :])
            must(validate(self.open(place)) != [], f"a flipped bit in byte {at} of {key} was not found")
            backend.write(key, whole)
        must(validate(self.open(place)) == [], "what was put back is not clean")

    def test_damaged_rows_are_not_served(self) -> None:
        place = self._made("damaged", [1, 2])
        backend = self.open(place)
        key = next(key for key in backend.sizes("segments") if "/obs/state/c/" in key)
        whole = backend.read(key, limit=LIMIT)
        backend.write(key, bytes([whole[0] ^ 1]) + whole[1:])
        store = ReplayStore.open(self.open(place))
        raises(StoreError, store.episode, 0)
        raises(StoreError, store.sampler(batch_size=4, seed=0, tier="streaming").next)
        raises(StoreError, lambda: store.sampler(batch_size=4, seed=0, tier="memory").next())
        backend.delete(key)
        raises(StoreError, ReplayStore.open(self.open(place)).episode, 0)
        must(any("missing" in finding.what for finding in validate(self.open(place))), "a missing file was not found")

    def test_repair_keeps_what_is_intact(self) -> None:
        place = self._made("repair", [1, 2, 3], each=1)
        backend = self.open(place)
        key = next(key for key in backend.sizes("segments") if "/reward/c/" in key)
        backend.delete(key)
        done = repair(self.open(place))
        must(done.commit == 4 and self._seeds(place) == [2, 3], "repair did not commit the two intact episodes")

    def test_gc_sweeps_only_what_no_commit_names(self) -> None:
        place = self._made("gc", [1])
        writer = ReplayStore.open(self.open(place)).writer()
        writer.append(episode(2))
        left = f"segments/{writer.seal()['id']}"
        must(gc(self.open(place), age=3600).segments == (), "a young segment was swept")
        del writer  # a writer that lives may hold a lock
        must(gc(self.open(place), age=0).segments == (left,), "an old segment that no commit names was not swept")
        must(self.open(place).sizes(left) == {} and self._seeds(place) == [1], "gc left something, or took too much")
        must(validate(self.open(place)) == [], "gc left damage")

    def test_merge_copies_from_one_place_to_another(self) -> None:
        one, two, into = self._made("from", [1, 2]), self._made("from", [2, 3]), fresh("into")
        opened = [ReplayStore.open(self.open(place)) for place in (one, two)]
        store, copied, known = merge(opened, self.open(into))
        must((copied, known) == (3, 1), f"{copied} were copied, {known} known already; expected 3 and 1")
        must([int(seed) for seed in store.episodes["seed"]] == [1, 2, 3], "merged episodes are missing or out of order")
        must(merge(opened, self.open(into))[1:] == (0, 4), "merging again copied something")
