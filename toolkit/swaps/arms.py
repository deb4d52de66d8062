"""Which swaps a learner and a suite offer."""

from __future__ import annotations

from toolkit.core import ActionValue, Planner, Policy, Reactive
from toolkit.envs import Suite
from toolkit.swaps.critic import Chosen, Nearest
from toolkit.swaps.dynamics import TrueDynamics
from toolkit.swaps.expert import Corrected, ExpertStates, Labelled
from toolkit.swaps.scene import Scene, Swap

__all__ = ["SHARES", "Nearest", "Scene", "Swap", "offered"]

SHARES = (0.25, 0.5, 1.0)  # of steps on which the expert acts


def offered(scene: Scene, policy: Policy) -> dict[str, Swap | str]:
    """Every arm by name, or why there is none. The first, `own`, is the learner as it is evaluated."""
    simulated = (
        ""
        if type(scene.suite).simulator is not Suite.simulator
        else (f"suite {scene.suite.name} has no simulator that can be set to a state")
    )
    planner = "" if isinstance(policy, Planner) else "its policy plans with no model"
    critic = "" if isinstance(scene.learner, ActionValue) else "it has no critic of actions"
    if not critic and not (isinstance(policy, Reactive) and policy.deterministic):
        critic = "its policy draws or remembers: what follows an action is no single number"
    found: dict[str, Swap | str] = {"own": Labelled(scene)}
    found["dynamics"] = planner or simulated or TrueDynamics(scene)
    found["critic"] = critic or simulated or Chosen(scene, true=False)
    found["value"] = critic or simulated or Chosen(scene, true=True)
    found["states"] = simulated or ExpertStates(scene)
    return found | {f"expert-{share:g}": Corrected(scene, share) for share in SHARES}
