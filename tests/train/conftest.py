from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import save_tiny_llama
from tests.train.dataset import make_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built dataset with the four configs."""
    return make_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a chat template; every character is a token."""
    return save_tiny_llama(tmp_path_factory.mktemp("model"))
