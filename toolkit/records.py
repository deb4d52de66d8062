"""A run's folder, written and read. No torch here: figures and reports read thousands of runs.

RUN/ holds config.json (complete; running from it repeats the run), state.json, metrics.jsonl,
episodes.jsonl, checkpoint/ and DONE. Metrics append line by line; everything else is replaced by rename.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Record:
    """One evaluation episode, carrying its own identity; one line of episodes.jsonl."""

    run: str  # the run's id
    learner: str
    family: str
    suite: str
    seed: int  # the training seed
    step: int  # gradient steps taken when it was evaluated
    split: str  # "seen" (contexts of the training data), "interpolated" or "extrapolated"
    episode: int  # index within this evaluation; equal indices share context and env_seed across learners
    context: list[float]
    env_seed: int
    episode_return: float  # raw, undiscounted
    length: int
    success: bool
    random: float  # reference returns of this suite and split
    expert: float
    behaviour: float  # mean return of the training data's episodes
    tags: dict[str, Any] = field(default_factory=dict)  # factors of the study: draw, size, contexts, coverage

    @property
    def score(self) -> float:
        """(return - random) / (expert - random); 0 acts at random, 1 as the scripted expert."""
        return (self.episode_return - self.random) / (self.expert - self.random)

    @property
    def behaviour_score(self) -> float:
        """The training data's mean return on the same scale."""
        return (self.behaviour - self.random) / (self.expert - self.random)
