"""Short runs of the text stages whose trainings differ most; as a module, in two processes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from drivesim.core.picture import save_png
from drivesim.data import NuScenesConfig, make_source
from drivesim.data.pictures import PictureFolder, PictureFolderConfig
from drivesim.data.source import ClipSource
from drivesim.toytown import TownConfig, write_nuscenes
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.fit import fit
from tests.train.tiny_text_training import SUBJECTS, Beginnings, settings

STAGES = (
    StageName.TEXT_VIDEO_DECODER,  # a discriminator beside the decoder
    StageName.TEXT_UPSCALER,  # pieces of pictures
    StageName.DREAMBOOTH,  # pictures that the first process makes for all
)


def config(stage: StageName, root: Path, begin: Beginnings) -> TrainConfig:
    """Two steps on two clips or pictures each, in numbers so long that the order of sums does not matter."""
    made = settings(stage, begin, root / "cache")
    made.loader.batch_size, made.trainer.precision = 1, "64-true"
    return made


def sources(root: Path) -> tuple[ClipSource, ClipSource]:
    """Clips and pictures of a subject, which `write` wrote."""
    town = NuScenesConfig(root=str(root / "town"), version="v1.0-toytown", val_share=0, captions=True)
    return make_source(town), PictureFolder(PictureFolderConfig(root=str(root / "subject"), caption="a sks car"))


def write(root: Path) -> None:
    """Writes what they learn from."""
    town = TownConfig(num_scenes=1, duration_s=4.0, fps=4.0, key_fps=4.0, size_hw=(64, 128))
    write_nuscenes(town, root / "town")
    noise = torch.rand(3, 32, 64, 3, generator=torch.Generator().manual_seed(0))
    for number, picture in enumerate((noise * 255).byte().numpy()):
        save_png(root / "subject" / f"{number}.png", picture)


def main(root: Path) -> None:
    """Trains all of them; the process that Lightning starts beside this one comes by here, too."""
    begin, (clips, pictures) = Beginnings.under(root / "begin"), sources(root)
    for stage in STAGES:
        made = config(stage, root, begin)
        made.trainer.devices = 2
        fit(made, pictures if stage in SUBJECTS else clips, root / "two" / stage.value)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
