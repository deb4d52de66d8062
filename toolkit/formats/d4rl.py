"""D4RL's HDF5 files (arXiv:2004.07219): flat rows of all episodes, one after another.

Rows hold `observations`, `actions`, `rewards`, `terminals` and `timeouts`; an episode ends where either flag is set.
The observation after an episode's last action is there only if the file has `next_observations`. In maze2d files
`timeouts` mark a new goal, in the middle of a walk that goes on. Files without `timeouts` (version 0) do not say
where time limits struck, so they are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from toolkit.formats import Format, Reading, Recording, Source
from toolkit.formats._ends import same_length, spans, without_final
from toolkit.formats._hdf5 import array, arrays, member, opened
from toolkit.formats._spaces import acted, observed
from toolkit.formats._writing import left_behind
from toolkit.store import ReplayStore
from toolkit.store.keys import InfoKey
from toolkit.store.schema import Schema

FLAGS = ("terminals", "timeouts")
ROWS = ("observations", "actions", "rewards", *FLAGS)
LIMITS = (-1.0, 1.0)  # of actions, by convention
BLOCK = 1 << 16  # rows read or written together


class D4RL(Format):
    name = "d4rl"
    about = "D4RL HDF5 (observations, actions, rewards, terminals, timeouts)"
    requires = ("h5py",)

    def read(self, source: Path, reading: Reading) -> Source:
        """See `Format.read`. With `next_observations` nothing is left out; without, see `toolkit.formats._ends`."""
        if reading.keys is not None:
            raise ValueError("a D4RL file has one vector of observations; leave out --keys")
        with opened(source) as file:
            if member(file, "timeouts") is None and member(file, "terminals") is not None:
                raise ValueError(
                    f"{source} has no 'timeouts', so where time limits ended its episodes is not known; use a later "
                    "version of the data set, which has them"
                )
            rows = same_length({name: len(array(file, name)) for name in ROWS}, source)
            whole = member(file, "next_observations") is not None
            if whole:
                same_length({"rewards": rows, "next_observations": len(array(file, "next_observations"))}, source)
            terminals, timeouts = (array(file, name)[:].reshape(rows).astype(bool) for name in FLAGS)
            starts, stops = spans(terminals | timeouts)
            terminated = terminals[stops - 1] if len(stops) else np.zeros(0, bool)
            ends = without_final(stops - starts, terminated, reading.final) if not whole else None
            observations, actions = array(file, "observations"), array(file, "actions")
            actions_read = (actions[at : at + BLOCK] for at in range(0, rows, BLOCK))
            acting, limits = acted(actions.shape[1:], actions_read, reading, convention=LIMITS)
            group = member(file, "infos")
            extras = arrays(group) if isinstance(group, h5py.Group) else {}
            infos = {
                name: InfoKey(kept.shape[1:], _info_type(kept)) for name, kept in extras.items() if len(kept) == rows
            }
            schema = Schema.from_spaces(
                observation=observed(observations.shape[1:], observations.dtype), action=acting, info=infos
            )
        notes = list(ends.notes) if ends is not None else []
        if rows and not (terminals | timeouts)[-1]:
            notes.append("the last episode has no end in the file and is taken as truncated")
        if left := sorted(set(extras) - set(infos)):
            notes.append(f"infos {', '.join(left)} were left out: they have another number of rows")
        kept = np.arange(len(stops)) if ends is None else ends.kept

        def recordings(first: int) -> Iterator[Recording]:
            with opened(source) as file:
                for number in kept[first:].tolist():
                    span = slice(int(starts[number]), int(stops[number]))
                    steps = span.stop - span.start if ends is None else int(ends.steps[number])
                    obs = array(file, "observations")[span]
                    following = array(file, "next_observations")[span] if ends is None else None
                    part = slice(span.start, span.start + steps)
                    yield Recording(
                        where=f"rows {span.start} to {span.stop - 1}",
                        obs=(
                            ends.observations(number, obs)
                            if ends is not None
                            else np.concatenate([obs, following[-1:]])  # type: ignore[index]
                        ),
                        action=array(file, "actions")[part],
                        reward=array(file, "rewards")[part].reshape(steps),
                        terminated=bool(terminated[number] if ends is None else ends.terminated[number]),
                        ends={"terminals": terminals[span], "timeouts": timeouts[span]},
                        next_obs={} if following is None else {"observation": following},
                        info={name: member(file, "infos")[name][part] for name in infos},
                    )

        return Source(schema, len(kept), recordings, notes, limits)

    def write(self, store: ReplayStore, target: Path) -> Sequence[str]:
        """See `Format.write`: rows with next observations; nested observations become one vector, goals last."""
        acting = store.schema.action
        if acting.space != "box" or store.schema.images:
            raise ValueError("a D4RL file holds vectors of observations and continuous actions; this store has others")
        total, at = store.transitions, 0
        wide: tuple[int, ...] = (store.schema.obs_dim,)
        shapes = {"observations": wide, "next_observations": wide}
        shapes |= {"actions": acting.shape, "rewards": (), "terminals": (), "timeouts": ()}
        with h5py.File(target, "x") as file:
            made = {
                name: file.create_dataset(name, (total, *shape), bool if name in FLAGS else "float32")
                for name, shape in shapes.items()
            }
            extras = {
                name: file.create_dataset(f"infos/{name}", (total, *key.shape), key.dtype)
                for name, key in store.schema.info.items()
            }
            for index in range(len(store)):
                episode = store.episode(index)
                span = slice(at, at := at + len(episode))
                packed = store.schema.flatten(episode.observations())
                made["observations"][span], made["next_observations"][span] = packed[:-1], packed[1:]
                made["actions"][span], made["rewards"][span] = episode.action, episode.reward
                last = np.zeros(len(episode), bool)
                last[-1] = True
                made["terminals"][span], made["timeouts"][span] = (
                    last & episode.terminated,
                    last & (not episode.terminated),
                )
                for name, dataset in extras.items():
                    dataset[span] = episode.info[name]
        named = [key.name for key in store.schema.observations] != ["observation"]
        return [*left_behind(store, convention=LIMITS), *(["names of observations"] if named else [])]


def _info_type(found: h5py.Dataset) -> str:
    return "bool" if found.dtype.kind == "b" else str(np.dtype(found.dtype).newbyteorder("="))


FORMAT = D4RL()
