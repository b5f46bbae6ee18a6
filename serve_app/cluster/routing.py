"""Ray's side of routing: tells the gateway which replicas exist, and sends each RPC to the replica the gateway chose.

Serve runs the router inside the gateway process, on the gateway's own event loop or on a thread beside it, depending on the
environment. The decision is made in `ReplicaSet`, on the gateway's loop; here it is only carried out.

Serve pickles this module's code by value, so nothing here may be shared with the rest of the process: state lives in `feed`.
"""

from __future__ import annotations

import time
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from serve_app.cluster.feed import feed_of

UNAVAILABLE_SECONDS = 5.0


class PinnedRouter(RequestRouter):  # type: ignore[misc]
    """Sends a call to the replica named in its second positional argument, or anywhere if it's gone or none is named."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._publish()

    def initialize_state(self, **_: Any) -> None:
        self._unavailable_until: dict[Any, float] = {}

    def on_replica_actor_died(self, replica_id: Any) -> None:
        super().on_replica_actor_died(replica_id)
        self._publish()

    def on_replica_actor_unavailable(self, replica_id: Any) -> None:
        # Under gRPC a dead replica looks like this until the controller notices; Serve would offer it again at once.
        super().on_replica_actor_unavailable(replica_id)
        self._unavailable_until[replica_id] = time.monotonic() + UNAVAILABLE_SECONDS

    def _publish(self) -> None:
        feed_of(self._deployment_id.name).publish([r.replica_id.unique_id for r in self.curr_replicas.values()])

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        chosen = pending_request.args[1] if pending_request is not None and len(pending_request.args) > 1 else None
        now = time.monotonic()
        usable = [r for r in candidate_replicas if self._unavailable_until.get(r.replica_id, 0.0) < now]
        pinned = [r for r in usable if r.replica_id.unique_id == chosen]
        # Nothing was sent yet, so a choice that has meanwhile gone costs nothing but its place.
        return [pinned or usable or candidate_replicas]
