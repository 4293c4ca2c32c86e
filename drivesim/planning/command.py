"""drivesim plan: the config of a training or a rollout to its plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drivesim.data import is_there, make_source
from drivesim.planning.plan import Plan
from drivesim.rollout.run import RolloutConfig


def plan_command(config: Any, find_recipe: Callable[[str], Any]) -> Plan:
    """What a command will need.

    Args:
        config: of `train` or of `rollout`, with the hardware to plan for in `plan`.
        find_recipe: the recipe that writes a model folder, for one that is not there yet; None = no recipe does.

    Raises:
        ValueError: a config that nothing can be planned of; says why.
    """
    is_rollout = isinstance(config, RolloutConfig)  # the command line's own config has more fields than that
    if is_rollout:
        from drivesim.planning.plan_rollout import plan_rollout

        return plan_rollout(config, config.plan, find_recipe)
    from drivesim.planning.plan_training import plan_training  # Lightning, which takes seconds to import

    return plan_training(config, config.plan, find_recipe, make_source(config.data) if is_there(config.data) else None)
