"""`--numa replicate`: one worker per node, and the router that spreads requests over them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from engine.memory.numa_nodes import NumaNode
from engine.serving.router import Router
from engine.serving.shutdown import GracePeriod
from engine.serving.workers import Log, Workers


class Replicas:
    """The workers and their router, from start to stop."""

    def __init__(
        self,
        address: tuple[str, int],
        nodes: Sequence[NumaNode],
        arguments: Sequence[str],
        log: Log,
        token: str | None = None,
    ) -> None:
        """`arguments` are those of every worker, which read the same token. Raises OSError if it cannot listen."""
        self._workers = Workers({str(n.number): [*arguments, "--numa", f"bind:{n.number}"] for n in nodes}, log)
        self._router = Router(address, self._workers, token)

    def start(self) -> dict[str, Any]:
        """Starts the workers, then the router; returns the fields of the ready line. Raises ValueError."""
        self._workers.start(self._router.restore_lease)
        # A long poll interval: polling twice a second would wake an idle machine, and the process just exits.
        threading.Thread(target=self._router.serve_forever, args=(3600.0,), daemon=True).start()
        workers = self._workers.all
        shared_fields = {
            key: value for key, value in workers[0].ready_fields.items() if key not in ("url", "pid", "numa")
        }
        processes = [
            {"node": int(w.name), **{key: w.ready_fields[key] for key in ("url", "pid", "numa")}} for w in workers
        ]
        numa = {"asked": "replicate", "nodes": [int(worker.name) for worker in workers]}
        return {"url": self._router.url, **shared_fields, "numa": numa, "workers": processes}

    def stop(self, grace: GracePeriod) -> None:
        """Stops accepting and ends the workers; running requests get the grace period."""
        self._router.server_close()
        self._workers.stop(grace)
