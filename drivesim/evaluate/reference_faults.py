"""Faults of videos against those of the same names that they should equal; each pair is read side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drivesim.evaluate.detector import Detections
from drivesim.evaluate.drift_pass import UNKNOWN_FPS, CourseReader
from drivesim.evaluate.faults import Fault
from drivesim.evaluate.paired_faults import find_paired_faults
from drivesim.evaluate.videos import Video, find_videos


def reference_faults(
    videos: Sequence[Video], folder: str, reader: CourseReader, detections: Mapping[str, Sequence[Detections]]
) -> tuple[dict[str, list[Fault]], list[str]]:
    """The faults of every video that has a reference, none where it equals that, and why the others were left out.

    Args:
        videos: What is judged.
        folder: Of the references; names are paths below it.
        reader: Brings both to one rate and size. Its detector, if it has one, tells classes and who has an object.
        detections: Of the judged videos, one a frame, by their names.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no video in it.
    """
    wanted = {video.name: video for video in find_videos(folder)}
    found, problems = {}, []
    for video in videos:
        reference = wanted.get(video.name)
        if reference is None:
            problems.append(f"no reference of {video.name} in {folder}: its faults are told by real video alone")
            continue
        own = theirs = None
        try:
            if reader.detector is not None:
                score = reader.detector.config.score
                own = [each.confident(score) for each in detections[video.name]]
                frames = reader.frames(reference)
                theirs = [reader.detector(frame[None])[0].confident(score) for frame in frames]
            found[video.name] = find_paired_faults(
                reader.frames(video),
                reader.frames(reference),
                reader.protocol.fps or UNKNOWN_FPS,
                boxes=own,
                reference_boxes=theirs,
            )
        except (ValueError, OSError) as error:
            problems.append(f"{video.name} was not held against its reference: {error}")
    return found, problems
