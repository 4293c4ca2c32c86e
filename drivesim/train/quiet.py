"""What Lightning says of itself and nobody can act on is left unsaid; its real warnings stay."""

from __future__ import annotations

import logging
import warnings

import lightning as L

_NO_NEWS = (  # beginnings of warnings, as regular expressions
    ".* module.s. in eval mode at the start",  # frozen parts are
    ".*isinstance.treespec, LeafSpec",
    "Checkpoint directory .* exists and is not empty",  # a run that goes on
)


def quiet_lightning() -> None:
    """Hides Lightning's notes on hardware and itself, and warnings of what drivesim does on purpose."""
    for part in (L.pytorch.__name__, L.fabric.__name__):
        logging.getLogger(part).setLevel(logging.WARNING)
    for message in _NO_NEWS:
        warnings.filterwarnings("ignore", message)
