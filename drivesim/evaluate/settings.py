"""Settings of an evaluation; light to import, unlike the metrics themselves."""

from __future__ import annotations

from dataclasses import dataclass, field

from drivesim.evaluate.controls import ControlsConfig
from drivesim.evaluate.drift import DriftConfig
from drivesim.evaluate.networks import NetworkFile
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.report import ReportConfig
from drivesim.evaluate.uncertainty import UncertaintyConfig


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """What is scored, beside what, and what is written."""

    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)  # group protocol: which clips, which networks
    networks: list[NetworkFile] = field(default_factory=list)  # files and devices of the protocols' extractors
    controls: ControlsConfig = field(default_factory=ControlsConfig)  # scores beside those of the generated videos
    uncertainty: UncertaintyConfig = field(default_factory=UncertaintyConfig)  # how sure scores are
    report: ReportConfig = field(default_factory=ReportConfig)  # what the page shows
    features: str | None = None  # folder of stored features, which evaluations may share; None = `features` in `out`
    drives: str | None = None  # JSON file: pattern of video names -> drive; None = as their rollouts' starts say
    diversity: bool = True  # also measure how far futures of one start frame part
    drift: DriftConfig = field(default_factory=DriftConfig)  # what changes in the course of videos
    batch_clips: int = 8  # clips that an extractor takes at once; does not change the scores


@dataclass(kw_only=True, slots=True, frozen=True)
class Span:
    """A part of a video's time, in seconds since its first frame."""

    begin_s: float
    end_s: float

    def __str__(self) -> str:
        return f"{self.begin_s:g}-{self.end_s:g} s"
