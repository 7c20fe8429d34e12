"""`--numa replicate`: a worker on each node, and the front that spreads requests over them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from engine.memory.numa_nodes import Node
from engine.serving.router import Router
from engine.serving.shutdown import GracePeriod
from engine.serving.workers import Log, Workers


class Replicas:
    """All of it, from start to end."""

    def __init__(self, address: tuple[str, int], nodes: Sequence[Node], arguments: Sequence[str], log: Log) -> None:
        """`arguments` are those that all workers have. Raises OSError where it cannot listen."""
        self._workers = Workers({str(n.number): [*arguments, "--numa", f"bind:{n.number}"] for n in nodes}, log)
        self._router = Router(address, self._workers)

    def start(self) -> dict[str, Any]:
        """Starts the workers and then serves; what there is, for the line of JSON. Raises ValueError."""
        self._workers.start(self._router.restore_lease)
        # Looking whether to stop twice a second would wake an idle machine for nothing: the process just ends.
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
        """Takes nothing new and ends the workers; those that still answer have as long as `patience` says."""
        self._router.server_close()
        self._workers.stop(grace)
