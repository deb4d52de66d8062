"""Minari data sets (https://minari.farama.org), HDF5, Arrow and Parquet: a folder with `data/metadata.json`.

An episode of T steps has T+1 observations, so nothing of it is left out. Minari's collector records T+1 infos, the
first of which came with the reset; those of the T steps are kept. Spaces, specs of environments and requirements are
read as data. Where a data set states no spaces, Minari makes its environment to see them, importing what the file
names: such a data set is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from toolkit.core import Array, Episode, leaves
from toolkit.formats import Format, Reading, Recording, Source
from toolkit.formats._minari import FLAGS, check_space, columnar, decoded, folder_of, guarded, infos_of, stored
from toolkit.formats._spaces import chosen_keys
from toolkit.store import ReplayStore
from toolkit.store.environment import WATCHERS
from toolkit.store.files import parse_json, read_bounded
from toolkit.store.keys import InfoKey
from toolkit.store.schema import REQUIREMENT, Schema
from toolkit.store.spaces import action_key, key_space, named_spaces, observation_key

GOALS = {"observation", "achieved_goal", "desired_goal"}  # of Gymnasium's goal environments
COLUMNS = ("behaviour", "task", "success")  # written as metadata of an episode, beside Minari's own
SUCCESS = ("success", "is_success")  # infos that say whether the task is done
OLD = ("apply_api_compatibility", "autoreset")  # fields of specs that Gymnasium 1 does not have
SEEDS = 1 << 63


class Minari(Format):
    name = "minari"
    about = "Minari data sets, HDF5, Arrow and Parquet (a folder with data/metadata.json)"
    requires = ("minari", "PIL")  # Minari's HDF5 imports Pillow
    extra = "minari"

    def read(self, source: Path, reading: Reading) -> Source:
        """See `Format.read`. Of an info of T+1 entries, the first is left out."""
        from minari.dataset.minari_storage import MinariStorage, is_image_space

        data = folder_of(source)
        metadata = parse_json(read_bounded(data / "metadata.json"), source)
        if not isinstance(metadata, dict) or type(count := metadata.get("total_episodes")) is not int:
            raise ValueError(f"{source}: metadata.json is not Minari's; expected it to say total_episodes")

        def open_storage() -> Any:
            check_space(metadata, "observation_space")
            check_space(metadata, "action_space")
            return MinariStorage.read(data)  # both spaces are stated, so nothing is made

        storage = guarded(source, "metadata.json", open_storage)
        found = list(stored(data, count) if storage.FORMAT == "hdf5" else columnar(storage, source, count))
        about = guarded(source, "metadata of episodes", lambda: list(storage.get_episode_metadata(range(count))))
        for number, (one, meta) in enumerate(zip(found, about, strict=True)):
            if one.steps != (stated := meta.get("total_steps", one.steps)):
                why = "" if storage.FORMAT == "hdf5" else ": Minari reads the first batch of rows of an episode alone"
                raise ValueError(f"{source}: episode {number} has {stated} steps, but {one.steps} are read{why}")
        kept = [number for number, one in enumerate(found) if one.steps]
        infos = infos_of([found[number] for number in kept])
        notes: list[str] = []
        try:
            schema = _schema(storage, reading, metadata, infos.keys, notes)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        keys = [key.name for key in schema.observations]
        named = named_spaces(storage.observation_space)
        if getattr(storage, "jpeg_encoding", True) and any(is_image_space(named[key]) for key in keys):
            notes.append("images are as JPEG left them, in which Minari kept them")
        if any(infos.first.values()):
            notes.append("infos that came with resets were left out")
        if infos.left:
            told = ", ".join(infos.left)
            notes.append(f"infos {told} were left out: no numbers of one shape at every step of every episode")
        if len(kept) < count:
            notes.append(f"{count - len(kept)} episodes have no step and were left out")
        if endless := sum(not found[number].over for number in kept):
            notes.append(f"{endless} episodes have no end in the data and are taken as truncated")
        if other := sorted({str(name) for meta in about for name in meta} - {"id", "total_steps", "seed", *COLUMNS}):
            notes.append(f"metadata of episodes were left out: {', '.join(other)}")
        if unknown := sum(meta.get("seed") is not None and "seed" not in _columns(meta, {}) for meta in about):
            notes.append(f"the seeds of {unknown} episodes were left out: they are not below 2**63")

        def recordings(at: int) -> Iterator[Recording]:
            for number in kept[at:]:
                one = decoded(storage, source, number)
                observed, told = leaves(one["observations"]), leaves(one["infos"] or {})
                if missing := [key for key in keys if key not in observed]:
                    raise ValueError(f"{source}: episode {number} has no observation {missing[0]!r}")
                info = {name: np.asarray(told[name])[infos.first[name] :] for name in infos.keys}
                yield Recording(
                    where=f"episode {number}",
                    obs={key: observed[key] for key in keys},
                    action=np.asarray(one["actions"]),
                    reward=np.asarray(one["rewards"]),
                    terminated=bool(one["terminations"][-1]),
                    ends={name: np.asarray(one[name], bool) for name in FLAGS},
                    info=info,
                    columns=_columns(about[number], info),
                )

        return Source(schema, len(kept), recordings, notes)

    def write(self, store: ReplayStore, target: Path) -> Sequence[str]:
        """See `Format.write`: HDF5, images without loss. Minari finds a data set by its folder's name, NAME-v0."""
        from minari import __version__
        from minari.data_collector.episode_buffer import EpisodeBuffer
        from minari.dataset.minari_storage import MinariStorage

        schema, lost = store.schema, []
        observation = _space({key.name: key_space(key) for key in schema.observations})
        target.mkdir()
        storage = MinariStorage.new(
            target / "data",
            observation_space=observation,
            action_space=key_space(schema.action),
            data_format="hdf5",
            jpeg_encoding=False,
        )
        name = re.sub(r"[^-\w]", "_", target.name)
        if not re.fullmatch(r"[-\w]+-v\d+", name):
            name = f"{name}-v0"
        if name != target.name:
            lost.append(f"data sets of such a name; rename the folder to {name} for minari.load_dataset to find it")
        told: dict[str, Any] = {"dataset_id": name, "minari_version": __version__}
        for key, spec in (("env_spec", schema.environment_spec), ("eval_env_spec", schema.evaluation_spec)):
            if spec is not None and _reads(text := json.dumps(spec)):
                told[key] = text
            elif spec is not None:
                lost.append(f"the {key}, which Gymnasium does not read")
        if schema.requirements:
            told["requirements"] = list(schema.requirements)
        storage.update_metadata(told)
        about: list[dict[str, Any]] = []

        def buffer(episode: Episode) -> Any:
            ends = np.zeros((2, len(episode)), bool)
            ends[:, -1] = episode.terminated, not episode.terminated
            about.append({name: episode.columns[name] for name in COLUMNS if episode.columns[name] not in (None, "")})
            seed = episode.columns["seed"]
            return EpisodeBuffer(
                seed=seed if seed >= 0 else None,
                observations=_as_observed(episode.observations()),
                actions=episode.action,
                rewards=episode.reward,
                terminations=ends[0],
                truncations=ends[1],
                infos=_nested(episode.info),
            )

        storage.update_episodes(buffer(store.episode(index)) for index in range(len(store)))
        storage.update_episode_metadata(about)
        if schema.context_names:
            lost.append("contexts")
        goals = {key.name.partition("/")[0] for key in schema.observations if key.role == "goal"}
        if goals and not (goals == {"desired_goal"} and _has_goals(observation)):
            lost.append(f"that {', '.join(sorted(goals))} is a goal")
        return lost


def _schema(
    storage: Any, reading: Reading, metadata: Mapping[str, Any], infos: Mapping[str, InfoKey], notes: list[str]
) -> Schema:
    """The schema of the observations asked for; what of the metadata was left out is added to the notes."""
    named = named_spaces(storage.observation_space)
    goal = "desired_goal" if _has_goals(storage.observation_space) else None
    observations = [
        observation_key(key, named[key], "goal" if key.partition("/")[0] == goal else None, None)
        for key in chosen_keys(list(named), reading)
    ]
    acting = storage.action_space
    if reading.limits is not None:
        low, high = reading.limits
        if not isinstance(acting, spaces.Box) or not low < high:
            raise ValueError(f"limits are {low:g} and {high:g}; expected the lower one first, and actions in a Box")
        acting = spaces.Box(low, high, acting.shape, np.float32)
    action = action_key(acting, None)
    stated = [str(text) for text in metadata.get("requirements") or ()]
    if loose := [text for text in stated if not REQUIREMENT.fullmatch(text)]:
        notes.append(f"requirements {', '.join(loose)} were left out: they name no one version")
    return Schema(
        tuple(observations),
        action,
        action.one_hot,
        info=infos,
        environment_spec=_spec(metadata, "env_spec", notes),
        evaluation_spec=_spec(metadata, "eval_env_spec", notes),
        requirements=tuple(sorted({*stated} - {*loose})),
    )


def _has_goals(observation: spaces.Space) -> bool:
    return isinstance(observation, spaces.Dict) and set(observation.spaces) >= GOALS


def _spec(metadata: Mapping[str, Any], name: str, notes: list[str]) -> dict[str, Any] | None:
    """Gymnasium's EnvSpec as JSON, without wrappers that only watch; None, and a note, if it is none."""
    if (text := metadata.get(name)) is None:
        return None
    try:
        spec = parse_json(text.encode(), name)
        wrappers = [one for one in spec.get("additional_wrappers") or [] if one["name"] not in WATCHERS]
        kwargs = {k: v for k, v in (spec.get("kwargs") or {}).items() if (k, v) != ("render_mode", "human")}
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        notes.append(f"{name} was left out: it is no spec of Gymnasium's ({error})")
        return None
    kept = {key: value for key, value in spec.items() if key not in OLD}
    return {**kept, "additional_wrappers": wrappers, "kwargs": kwargs}


def _reads(text: str) -> bool:
    """Whether Gymnasium reads the spec, as Minari has it do on opening a data set. Nothing is imported by it."""
    from gymnasium.envs.registration import EnvSpec

    try:
        return bool(EnvSpec.from_json(text))
    except Exception:
        return False


def _columns(about: Mapping[str, Any], info: Mapping[str, Array]) -> dict[str, Any]:
    """An episode's columns, from its metadata; whether it succeeded also from the last of its infos."""
    found: dict[str, Any] = {name: about[name] for name in COLUMNS[:2] if isinstance(about.get(name), str)}
    seed, success = about.get("seed"), about.get("success")
    if isinstance(seed, int | np.integer) and 0 <= seed < SEEDS:
        found["seed"] = int(seed)
    told = [info[name][-1] for name in SUCCESS if name in info and info[name].ndim == 1]
    if isinstance(success, bool | np.bool_):
        found["success"] = bool(success)
    elif told and told[0] in (0, 1):
        found["success"] = bool(told[0])
    return found


def _nested(named: Mapping[str, Any]) -> dict[str, Any]:
    """What `leaves` named, nested again."""
    groups: dict[str, dict[str, Any]] = {}
    for name, leaf in named.items():
        top, _, rest = name.partition("/")
        groups.setdefault(top, {})[rest] = leaf
    return {top: inner[""] if "" in inner else _nested(inner) for top, inner in groups.items()}


def _as_observed(named: Mapping[str, Any]) -> Any:
    """Observations that `leaves` named, as the space has them: one alone is bare, places 0, 1, ... are a tuple."""

    def placed(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        places = [str(place) for place in range(len(part))]
        inner = {name: placed(one) for name, one in part.items()}
        return tuple(inner[place] for place in places) if set(inner) == set(places) else inner

    return named["observation"] if set(named) == {"observation"} else placed(_nested(named))


def _space(named: Mapping[str, spaces.Space]) -> spaces.Space:
    """The space of observations `_as_observed`."""

    def made(part: Any) -> spaces.Space:
        if isinstance(part, dict):
            return spaces.Dict({name: made(inner) for name, inner in part.items()})
        return spaces.Tuple([made(inner) for inner in part]) if isinstance(part, tuple) else part

    return made(_as_observed(named))


FORMAT = Minari()
