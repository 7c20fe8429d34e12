"""Fake engines that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.agent.enginebench.peers import MODELS, Behave, Peer, Reply


@pytest.fixture(name="peer")
def _peer() -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def start(behave: Behave, models: Reply | None = MODELS) -> Peer:
        peers.append(Peer(behave, models))
        return peers[-1]

    yield start
    for peer in peers:
        peer.close()
