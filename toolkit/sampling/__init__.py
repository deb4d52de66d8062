"""Sampling: index arithmetic and the packed-row gather. No zarr, and no copy of the next observation.

An episode of T steps owns T+1 consecutive packed rows, so a window of L steps is L+1 consecutive rows: one
`index_select` on a strided view fetches it as one contiguous block, and every field of a Batch is a slice of it.
"""

from toolkit.sampling.gather import Gather
from toolkit.sampling.index import EpisodeIndex, Packed
from toolkit.sampling.options import Options, Relabel, stacked_spec
from toolkit.sampling.sampler import Sampler
from toolkit.sampling.sources import Chunk, Mixed, Source, Streamed, Uniform

__all__ = [
    "Chunk",
    "EpisodeIndex",
    "Gather",
    "Mixed",
    "Options",
    "Packed",
    "Relabel",
    "Sampler",
    "Source",
    "Streamed",
    "Uniform",
    "stacked_spec",
]
