"""What a fleet's Alertmanagers tell this agent: alerts that they post here, and what they have silenced."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.alerting.silences import Silences
from agent.alerting.webhook_inbox import Inbox
from agent.config.schema import AgentConfig


class Fleet:
    """The inbox and the silences of one agent, with one life."""

    def __init__(self, folder: Path, external: Mapping[str, str], now_ms: int) -> None:
        self.inbox = Inbox(folder, now_ms)
        self.silences = Silences(external)

    async def configure(self, config: AgentConfig) -> None:
        """Takes a configuration over, the first or another."""
        self.inbox.expire_ms = round(config.remediation.webhook_expire * 1000)
        await self.silences.configure(config.alerting, config.remediation.silences)

    async def close(self) -> None:
        """Ends both."""
        await self.silences.close()
        self.inbox.close()
