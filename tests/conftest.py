"""What every test stands on: shapes in signatures are checked as the code runs, one thread, fixed seeds, no network."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

import tests.shapes

os.environ["HF_HUB_OFFLINE"] = "1"
# Rooms whose functions take tensors. Must come before the first import of harken. Tasks, readers and the command line
# take hostile input and say so in their own words, so they are left alone.
install_import_hook(
    ["harken.attention", "harken.layers", "harken.models", "harken.observation", "harken.signal"],
    f"{tests.shapes.__name__}.checked",
)
pytest.register_assert_rewrite("tests.attention.kit")

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture
def seed() -> torch.Generator:
    """A generator to draw a test's tensors from."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _same_weights_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _checks_stand_aside(request: pytest.FixtureRequest) -> Iterator[None]:
    """Under the mark ``border`` wrong arguments reach harken's own checks, as they do for a user."""
    jaxtyping_config.update("jaxtyping_disable", request.node.get_closest_marker("border") is not None)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def connect_at_home(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):  # type: ignore[index]
            raise OSError(f"tests may not use the network: {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect_at_home)
