"""Random numbers depend on their key and on nothing else."""

from __future__ import annotations

import subprocess
import sys

import torch

from drivesim.core.seeds import derive_seed, numpy_generator, torch_generator


def test_the_same_key_gives_the_same_numbers() -> None:
    key = (7, "start", 3, "predict", 0)
    assert torch.equal(torch.rand(4, generator=torch_generator(*key)), torch.rand(4, generator=torch_generator(*key)))
    assert (numpy_generator(*key).random(4) == numpy_generator(*key).random(4)).all()


def test_each_part_of_a_key_matters() -> None:
    keys = [(7, "a", 3), (8, "a", 3), (7, "b", 3), (7, "a", 4), (7, "a"), ("7", "a", 3), (7, "a3"), ("7a", 3)]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_a_seed_fits_every_generator() -> None:
    assert all(0 <= derive_seed("range", index) < 2**63 for index in range(200))


def test_another_process_derives_the_same_seed() -> None:
    code = "from drivesim.core.seeds import derive_seed; print(derive_seed(7, 'start'))"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(printed) == derive_seed(7, "start")


def test_deriving_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=torch_generator(1))
    assert torch.equal(torch.get_rng_state(), before)
