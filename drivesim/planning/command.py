"""drivesim plan: the config of a training or a rollout to its plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from drivesim.data import is_there, make_source
from drivesim.planning.free_disk import disk_spaces
from drivesim.planning.plan import Plan
from drivesim.rollout.run import RolloutConfig


def plan_command(config: Any, find_recipe: Callable[[str], Any], out: Path) -> Plan:
    """What a command will need.

    Args:
        config: of `train` or of `rollout`, with the hardware to plan for in `plan`.
        find_recipe: the recipe that writes a model folder, for one that is not there yet; None = no recipe does.
        out: the run's folder, which need not be there.

    Raises:
        ValueError: a config that nothing can be planned of; says why.
    """
    is_rollout = isinstance(config, RolloutConfig)  # the command line's own config has more fields than that
    if is_rollout:
        from drivesim.planning.plan_rollout import plan_rollout

        plan = plan_rollout(config, config.plan, find_recipe)
        folders, shrinks = {"out": out}, "seconds or futures"
    else:
        from drivesim.planning.plan_training import plan_training  # Lightning, which takes seconds to import

        source = make_source(config.data) if is_there(config.data) else None
        plan = plan_training(config, config.plan, find_recipe, source)
        folders, shrinks = {"out": out, "cache_dir": Path(config.cache_dir)}, "cache_fps or size_hw"
    if config.plan.hardware == "here":  # else its disks are not these
        plan.spaces = disk_spaces(plan.disk, folders, shrinks)
    return plan
