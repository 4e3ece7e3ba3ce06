"""The small world, opened once for all tests of this folder. No test may change it."""

from __future__ import annotations

import pytest

from orthus_core.world.world import World


@pytest.fixture(scope="session")
def world() -> World:
    return World.open()


@pytest.fixture(scope="session")
def testing_world(world: World) -> World:
    return World(world.pack, styles=world.styles, testing=True)
