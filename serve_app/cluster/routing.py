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
from serve_app.cluster.ports import ReplicaRefusedError

# How long a replica that Serve has taken from its list may still be sent to. It works until it has been idle for a moment, but
# at most for graceful_shutdown_timeout_s, and what it is sent last must be answered within that.
LEAVING_SECONDS = 30.0

# Less than the dispatcher lets pass before it asks an unreachable replica again.
UNAVAILABLE_SECONDS = 0.4


class PinnedRouter(RequestRouter):  # type: ignore[misc]
    """Sends a call to the replica named in its second positional argument and to no other, or anywhere if none is named.

    A call whose replica is gone or unreachable fails with `ReplicaRefusedError`: the dispatcher decides where to instead.
    Replicas that Serve is stopping can be named for a while: nobody else may be there, or serve the model of this gateway.
    """

    def initialize_state(self, **_: Any) -> None:
        self._unavailable_until: dict[Any, float] = {}
        self._named: dict[str, RunningReplica] = {}
        self._leaving: dict[Any, float] = {}  # until when

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        now = time.monotonic()
        listed = {replica.replica_id for replica in replicas}
        going = [id_ for id_ in self.curr_replicas if id_ not in listed]
        if set(going) - self._leaving.keys():
            self._event_loop.call_later(LEAVING_SECONDS + 0.1, self._let_go)
        until = {id_: self._leaving.get(id_, now + LEAVING_SECONDS) for id_ in going}
        self._leaving = {id_: end for id_, end in until.items() if end > now}
        super().update_replicas([*replicas, *(self.curr_replicas[id_] for id_ in self._leaving)])
        self._publish()

    def _let_go(self) -> None:
        self.update_replicas([each for id_, each in self.curr_replicas.items() if id_ not in self._leaving])

    def on_replica_actor_died(self, replica_id: Any) -> None:
        super().on_replica_actor_died(replica_id)
        self._leaving.pop(replica_id, None)
        self._publish()

    def on_replica_actor_unavailable(self, replica_id: Any) -> None:
        # Under gRPC a dead replica looks like this until the controller notices; Serve would offer it again at once.
        super().on_replica_actor_unavailable(replica_id)
        if replica_id in self._leaving:
            self.on_replica_actor_died(replica_id)
        self._unavailable_until[replica_id] = time.monotonic() + UNAVAILABLE_SECONDS

    def _publish(self) -> None:
        self._named = {replica.replica_id.unique_id: replica for replica in self.curr_replicas.values()}
        leaving = [replica_id.unique_id for replica_id in self._leaving]
        feed_of(self._deployment_id.name).publish([name for name in self._named if name not in leaving], leaving)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None or len(pending_request.args) < 2 or pending_request.args[1] is None:
            listed = await self._listed()
            return [[r for r in listed if self._reachable(r)] or listed]
        replica = self._named.get(pending_request.args[1])
        if replica is not None and self._reachable(replica):
            if self._replica_queue_len_cache.get(replica.replica_id) is None:
                # Serve would first ask how long its queue is, and a paused replica would hold up calls to the others so.
                self.on_new_queue_len_info(replica.replica_id, 0)
            return [[replica]]
        if not pending_request.future.done():
            pending_request.future.set_exception(ReplicaRefusedError("gone or unreachable"))
            self._remove_pending_request_from_indices(pending_request)
        return [candidate_replicas]

    async def _listed(self) -> list[RunningReplica]:
        """The replicas that aren't being stopped, as soon as there is one. (Given none, Serve would ask again without a pause.)"""
        while not (listed := [r for id_, r in self.curr_replicas.items() if id_ not in self._leaving]):
            self._replicas_updated_event.clear()
            await self._replicas_updated_event.wait()
        return listed

    def _reachable(self, replica: RunningReplica) -> bool:
        return self._unavailable_until.get(replica.replica_id, 0.0) < time.monotonic()
