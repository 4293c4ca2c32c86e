"""The config of a plan of a text-to-video rollout; light to import."""

from __future__ import annotations

from dataclasses import dataclass, field

from drivesim.planning.hardware import PlanConfig
from drivesim.rollout.text import TextRolloutCommand

PUBLISHED = "published"  # the paper's model by its sizes alone, of which nobody has to have the weights


@dataclass(kw_only=True, slots=True)
class PlanTextRolloutCommand(TextRolloutCommand):
    """What a rollout of a text-to-video model will need."""

    model: str = PUBLISHED  # as of a rollout; published = the paper's model by its sizes alone
    prompt: str | None = "a car"  # as of a rollout; what it says changes nothing
    plan: PlanConfig = field(default_factory=PlanConfig)  # hardware to plan for
