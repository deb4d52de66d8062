"""The replay store: plain zarr v3, one commit point, nothing lost and nothing half visible."""

from toolkit.store.committed import EpisodeTable
from toolkit.store.files import StoreError
from toolkit.store.keys import InfoKey, Key
from toolkit.store.mixture import Mixture, mix, open_mixture
from toolkit.store.reader import ReplayStore
from toolkit.store.schema import Schema
from toolkit.store.writer import Writer

__all__ = [
    "EpisodeTable",
    "InfoKey",
    "Key",
    "Mixture",
    "ReplayStore",
    "Schema",
    "StoreError",
    "Writer",
    "mix",
    "open_mixture",
]
