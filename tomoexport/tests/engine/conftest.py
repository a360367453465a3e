"""Fixtures of the engine's tests."""

import numpy as np
import pytest

from tomoexport.engine.backend import select_backend


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture(scope="session")
def cpu():
    return select_backend("cpu", 2)
