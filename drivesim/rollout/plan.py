"""The plan of a future: which call of the prediction model adds which frames."""

from __future__ import annotations

from dataclasses import dataclass

NUM_GIVEN = 2  # frames that every call but the first starts from


@dataclass(kw_only=True, slots=True, frozen=True)
class Chunk:
    """One call of the prediction model."""

    index: int  # 0-based
    num_given: int  # 1 for the first call, then 2
    first_frame: int  # number of the first frame that it adds
    num_new: int  # frames that it adds to the video


@dataclass(kw_only=True, slots=True, frozen=True)
class Plan:
    """All calls for a future of `num_frames` frames, by arithmetic: as small for an hour as for a second.

    The first call is given 1 frame, which opens the video, and adds itself whole; each later call is
    given the last 2 frames and adds the rest. The last call adds no more than is wanted.
    """

    num_frames: int  # wanted, the start frame included
    frames_per_call: int = 10  # the given ones included

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"a future of {self.num_frames} frames; at least 1 is needed")
        if self.frames_per_call <= NUM_GIVEN:
            raise ValueError(f"{self.frames_per_call} frames a call; more than {NUM_GIVEN} are needed")

    @property
    def num_chunks(self) -> int:
        """Calls of the prediction model."""
        after_first = max(0, self.num_frames - self.frames_per_call)
        return 1 + -(-after_first // (self.frames_per_call - NUM_GIVEN))

    def chunk(self, index: int) -> Chunk:
        """Call number `index`."""
        if not 0 <= index < self.num_chunks:
            raise IndexError(f"chunk {index} of {self.num_chunks}")
        if index == 0:
            return Chunk(index=0, num_given=1, first_frame=0, num_new=min(self.frames_per_call, self.num_frames))
        num_new = self.frames_per_call - NUM_GIVEN
        first_frame = self.frames_per_call + (index - 1) * num_new
        return Chunk(
            index=index,
            num_given=NUM_GIVEN,
            first_frame=first_frame,
            num_new=min(num_new, self.num_frames - first_frame),
        )

    def num_segments(self, segment_chunks: int) -> int:
        """Video files that are closed on the way, each of `segment_chunks` chunks (the last of what is left)."""
        return -(-self.num_chunks // segment_chunks)

    def segment(self, index: int, segment_chunks: int) -> range:
        """The chunks in segment number `index`."""
        return range(index * segment_chunks, min((index + 1) * segment_chunks, self.num_chunks))
