"""What a person may say of a drive, which a driving model's frames then follow."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from drivesim.core.motion import MotionSegment


@dataclass(kw_only=True, slots=True, frozen=True)
class Drive:
    """Of one video, from its start frame on."""

    is_night: bool | None = None  # None = unknown
    motion: tuple[MotionSegment, ...] = ()  # how the ego car drives; () = the model chooses

    def over(self, before: Drive | None) -> Drive:
        """What is said here, and of what is not what was said before."""
        before = before or Drive()
        is_night = before.is_night if self.is_night is None else self.is_night
        return Drive(is_night=is_night, motion=self.motion or before.motion)

    def facts(self) -> dict[str, Any]:
        """Plain keys and values; motion only where it is given."""
        said: dict[str, Any] = {"is_night": self.is_night}
        return said | ({"motion": [asdict(segment) for segment in self.motion]} if self.motion else {})
