"""The rings that events come through."""

from __future__ import annotations

import pytest

from memtap.bpf.rings import RING_BYTES, RING_LEAST_BYTES, RINGS_BYTES, ring_bytes
from memtap.bpf.session import Losses


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 5, 7, 64, 100, 256, 1024])
def test_a_ring_is_a_power_of_two_within_its_limits(cpus: int) -> None:
    size = ring_bytes(cpus)
    assert size.bit_count() == 1
    assert RING_LEAST_BYTES <= size <= RING_BYTES
    assert size * cpus <= RINGS_BYTES or size == RING_LEAST_BYTES
    assert size == RING_BYTES or size * 2 * cpus > RINGS_BYTES


def test_losses_add_up_and_are_told_apart() -> None:
    one, other = Losses(1, 20, 300), Losses(4, 50, 600)
    assert one + other == Losses(5, 70, 900)
    assert other - one == Losses(3, 30, 300)
