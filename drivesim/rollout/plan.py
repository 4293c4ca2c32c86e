"""The plan of a future: which call of the prediction model adds which frames."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True, frozen=True)
class Chunk:
    """One call of the prediction model, or a part of what its only call has made."""

    index: int  # 0-based
    num_given: int  # at most 1 for the first call, then the plan's; 0 = there is no call any more
    first_frame: int  # number of the first frame that it adds
    num_new: int  # frames that it adds to the video


@dataclass(kw_only=True, slots=True, frozen=True)
class Plan:
    """All calls for a future of `num_frames` frames, by arithmetic: as small for an hour as for a second.

    The first call is given 1 key frame, which opens the video, or none, and adds itself whole; each later call is
    given the last `num_given` key frames and adds the rest. Interpolation fills the gaps before each added key
    frame. The last call adds no more than is wanted.

    With `gaps_at_once` the first call makes all key frames there are, and each chunk shows the frames of so many gaps.
    """

    num_frames: int  # wanted, the start frame included
    frames_per_call: int = 10  # key frames, the given ones included
    num_given: int = 2  # key frames that every call but the first starts from
    frames_per_gap: int = 1  # frames from one key frame to the next, the first of them counted
    gaps_at_once: int | None = None  # that a chunk shows, where one call makes all key frames; None = all of a call

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"a future of {self.num_frames} frames; at least 1 is needed")
        if self.frames_per_call <= self.num_given:
            raise ValueError(f"{self.frames_per_call} frames a call; more than {self.num_given} are needed")
        most = (self.frames_per_call - 1) * self.frames_per_gap + 1
        if self.gaps_at_once is not None and self.num_frames > most:
            raise ValueError(f"{self.num_frames} frames; {self.frames_per_call} key frames make {most} at most")

    @property
    def num_chunks(self) -> int:
        """Calls of the prediction model, or parts of the only one."""
        after_first = max(0, self.num_frames - self._first_chunk)
        return 1 + -(-after_first // self._later_chunk)

    @property
    def _first_chunk(self) -> int:
        return (self.gaps_at_once or self.frames_per_call - 1) * self.frames_per_gap + 1

    @property
    def _later_chunk(self) -> int:
        return (self.gaps_at_once or self.frames_per_call - self.num_given) * self.frames_per_gap

    def chunk(self, index: int) -> Chunk:
        """Call number `index`."""
        if not 0 <= index < self.num_chunks:
            raise IndexError(f"chunk {index} of {self.num_chunks}")
        if index == 0:
            num_new = min(self._first_chunk, self.num_frames)
            return Chunk(index=0, num_given=1, first_frame=0, num_new=num_new)
        num_new = self._later_chunk
        first_frame = self._first_chunk + (index - 1) * num_new
        return Chunk(
            index=index,
            num_given=0 if self.gaps_at_once else self.num_given,
            first_frame=first_frame,
            num_new=min(num_new, self.num_frames - first_frame),
        )

    def num_segments(self, segment_chunks: int) -> int:
        """Video files that are closed on the way, each of `segment_chunks` chunks (the last of what is left)."""
        return -(-self.num_chunks // segment_chunks)

    def segment(self, index: int, segment_chunks: int) -> range:
        """The chunks in segment number `index`."""
        return range(index * segment_chunks, min((index + 1) * segment_chunks, self.num_chunks))
