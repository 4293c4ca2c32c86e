"""What a person says of a text-to-video clip: prompts over time; plain values, light to import."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class Prompts:
    """Prompts over the time of a video, and what it should not show.

    Between the times of two prompts one becomes the other evenly; before the first and after the last time a prompt
    holds.
    """

    prompts: list[str]  # in the order of time
    times_s: list[float] = field(default_factory=list)  # when each is reached; [] = spread evenly over the video
    negative_prompt: str = ""  # what guidance leads away from
    subject: str | None = None  # the rare word of a personal subject, which the image model alone knows; None = none

    def __post_init__(self) -> None:
        """Refuses what cannot be obeyed."""
        if not self.prompts:
            raise ValueError('no prompt; give one as prompt="a car on a road at night"')
        for number, prompt in enumerate(self.prompts):
            if not prompt.strip():
                which = "the prompt" if len(self.prompts) == 1 else f"prompt {number}"
                raise ValueError(f'{which} is empty; say what the video shows, such as "a car on a road at night"')
        if self.times_s and len(self.times_s) != len(self.prompts):
            raise ValueError(f"prompt_times_s has {len(self.times_s)} times for {len(self.prompts)} prompts")
        if any(late <= early for early, late in zip(self.times_s, self.times_s[1:], strict=False)):
            raise ValueError(f"prompt_times_s={self.times_s}: each time must come after the one before it")
        if any(time_s < 0 for time_s in self.times_s):
            raise ValueError(f"prompt_times_s={self.times_s}: times of a video begin with 0")
        if self.subject is not None and not any(_word(self.subject).search(prompt) for prompt in self.prompts):
            raise ValueError(f"subject={self.subject!r} is a word of none of the prompts; a prompt has to name it")

    @classmethod
    def unsaid(cls) -> Prompts:
        """Nothing is said: what guidance calls unconditional. An empty prompt of a person is taken for a mistake."""
        prompts = cls(prompts=["unsaid"])
        prompts.prompts = [""]
        return prompts

    def without_subject(self) -> list[str]:
        """The prompts for networks that do not know the subject: without its word."""
        if self.subject is None:
            return list(self.prompts)
        return [" ".join(_word(self.subject).sub(" ", prompt).split()) for prompt in self.prompts]


def _word(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


@dataclass(kw_only=True, slots=True, frozen=True)
class Mix:
    """What is told at one moment: a prompt, and a share of the next one."""

    index: int
    share_of_next: float  # 0 = the prompt alone


def mixes_at(prompts: Prompts, moments_s: Sequence[float], duration_s: float) -> list[Mix]:
    """What is told at some moments of a video.

    Args:
        prompts: over time.
        moments_s: from its beginning.
        duration_s: from its first frame to its last one.
    """
    last = len(prompts.prompts) - 1
    times = prompts.times_s or [duration_s * number / max(1, last) for number in range(last + 1)]
    mixes = []
    for moment_s in moments_s:
        before = min(max(0, bisect.bisect_right(times, moment_s) - 1), last)
        if before == last or moment_s <= times[before]:
            mixes.append(Mix(index=before, share_of_next=0.0))
            continue
        share = (moment_s - times[before]) / (times[before + 1] - times[before])
        mixes.append(Mix(index=before, share_of_next=share))
    return mixes
