"""Places in the code where a process may be killed, to see that nothing depends on its living on.

Every point is declared here and marked by one `reach(Point.…)` where its sentence has just become true. Nobody heeds
them in production. A process that is started with OAKESTRA_FAIL_POINTS naming a directory dies, as by kill -9, when it
reaches a point whose name is that of a file there. The file's name then ends in the id of who died, so that the next
process lives. If the file holds a process id, only that one is meant. The simulator hands in what happens instead.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path

DIRECTORY = "OAKESTRA_FAIL_POINTS"


class Point(Enum):
    """A moment in the life of a process; the first word of its name says which package is at work."""

    # a user's request, and root's pass
    ROOT_CHANGED = "root.changed"
    """What a user asked for is in root's memory, and nowhere else."""
    ROOT_WRITTEN = "root.written"
    """What a user asked for is durable, and the user has no answer."""
    ROOT_CLUSTER_KEPT = "root.cluster_kept"
    """A cluster is on record as a member, and has no answer."""
    ROOT_DECIDED = "root.decided"
    """A pass has changed records in memory; nothing is durable."""
    ROOT_COMMITTED = "root.committed"
    """What a pass decided is durable, and no cluster has been told."""
    ROOT_SENT = "root.sent"
    """Clusters have been told, and root has forgotten nothing yet that it needs no more."""

    ROOT_BEGUN_ANEW = "root.begun_anew"
    """An older copy of root's records goes on under a new epoch, and no cluster has been told."""

    # a cluster's pass
    CLUSTER_WORKER_KEPT = "cluster.worker_kept"
    """A worker is on record as a member, and has no answer."""
    CLUSTER_DECIDED = "cluster.decided"
    """What root wants was accepted, and what follows was decided; nothing is durable."""
    CLUSTER_COMMITTED = "cluster.committed"
    """What was accepted and decided is durable, and no worker has been told."""
    CLUSTER_SENT = "cluster.sent"
    """Workers have been told, and root has not."""

    # a worker's pass and its steps
    WORKER_JOINED = "worker.joined"
    """The cluster calls this worker a member, and the worker has not written down whose it is."""
    WORKER_ADOPTED = "worker.adopted"
    """Containers that nobody remembered were taken over, and that is durable."""
    WORKER_TOLD = "worker.told"
    """The cluster's newest assignment is in memory only."""
    WORKER_DESIRED_WRITTEN = "worker.desired_written"
    """A change of what is desired is durable, and nothing was done about it."""
    WORKER_PULLED = "worker.pulled"
    """An instance's image is here, and the agent does not know that yet."""
    WORKER_ATTACHED = "worker.attached"
    """An instance has its network, and no container."""
    WORKER_CREATED = "worker.created"
    """A container is made, and not started."""
    WORKER_STARTED = "worker.started"
    """A container runs, and nothing leads to it."""
    WORKER_STOPPED = "worker.stopped"
    """A container was ended because it is not wanted, and all of it is still there."""
    WORKER_DELETED = "worker.deleted"
    """A container is gone, and its network is not."""
    WORKER_DETACHED = "worker.detached"
    """Container and network are gone, and the instance is still desired."""
    WORKER_LOG_FORGOTTEN = "worker.log_forgotten"
    """All of an instance is gone, its log too, and its number is still taken."""
    WORKER_REPORTED = "worker.reported"
    """The cluster has been sent a report, and may not have got it."""

    # one container
    RUNTIME_RECORD_WRITTEN = "runtime.record_written"
    """A container's record is all there is of it."""
    RUNTIME_ROOTFS_MOUNTED = "runtime.rootfs_mounted"
    """Its root file system is mounted on the machine; runc could not run it yet."""
    RUNTIME_BUNDLE_BUILT = "runtime.bundle_built"
    """All that runc needs of it is on disk, and runc has not been called."""
    RUNTIME_CONMON_STARTED = "runtime.conmon_started"
    """conmon and runc are making it, and go on without the agent."""
    RUNTIME_CREATED = "runtime.created"
    """runc has made it; its root file system is still mounted on the machine, too."""
    RUNTIME_END_SEEN = "runtime.end_seen"
    """The agent knows that its process has ended, and nobody else does."""
    RUNTIME_STOP_ASKED = "runtime.stop_asked"
    """Its process was asked to end, and may not have heard."""
    RUNTIME_PROCESSES_ENDED = "runtime.processes_ended"
    """Nothing of it runs, and all its files are there."""
    RUNTIME_CGROUP_REMOVED = "runtime.cgroup_removed"
    """Its mount and cgroup are gone, its files are not."""
    RUNTIME_BUNDLE_EMPTY = "runtime.bundle_empty"
    """Only its record is left."""

    # one instance's network, and the machine's
    NETWORK_GATEWAY_MADE = "network.gateway_made"
    """The machine forwards and has the gateway's addresses, and there may be no rules."""
    NETWORK_TABLE_LOADED = "network.table_loaded"
    """The table of rules is there afresh, and the agent has not looked at it."""
    NETWORK_NAMESPACE_MADE = "network.namespace_made"
    """An instance's namespace and wire exist only as long as the thread that made them."""
    NETWORK_NAMESPACE_BOUND = "network.namespace_bound"
    """The namespace stays; the machine's end of the wire has not got its name."""
    NETWORK_LINK_NAMED = "network.link_named"
    """The instance has its network; packets may still get lost in it."""
    NETWORK_TUNNEL_EXTENDED = "network.tunnel_extended"
    """The ways to other workers are there, and no rule uses them."""
    NETWORK_RULES_CHANGED = "network.rules_changed"
    """The kernel has the new rules, published ports among them, and the agent does not know."""
    NETWORK_LINK_UNNAMED = "network.link_unnamed"
    """An instance's link is down and has lost its name; its namespace is there."""
    NETWORK_NAMESPACE_UNBOUND = "network.namespace_unbound"
    """The namespace is gone; the file it was bound to is there."""

    # one image, in the child process that installs it
    IMAGES_LAYER_UNPACKED = "images.layer_unpacked"
    """A layer's files are unpacked in the child's own directory."""
    IMAGES_LAYER_KEPT = "images.layer_kept"
    """A layer is in its place, and no image names it."""
    IMAGES_IMAGE_KEPT = "images.image_kept"
    """An image is on record, and has no name."""

    # records on disk, and what a cluster starts
    STORE_REPLACING = "store.replacing"
    """A file's new content is flushed beside the old, and not in its place."""
    STORE_COMMITTING = "store.committing"
    """A transaction has all its changes, and was not committed."""
    TRANSPORT_BROKER_STARTED = "transport.broker_started"
    """The broker runs, and nobody has written down that it does."""

    # the supervisor
    SUPERVISOR_STARTED = "supervisor.started"
    """A program was started, and nobody has written down that it was."""
    SUPERVISOR_STOPPED = "supervisor.stopped"
    """A program was stopped in order to be started anew, and stands as running on disk."""
    SUPERVISOR_REMEMBERING = "supervisor.remembering"
    """What runs is written beside the file that says so, and not in its place."""

    @property
    def package(self) -> str:
        """The package that is at work."""
        return self.value.partition(".")[0]


Heed = Callable[[Point], None]

_heed: Heed | None = None


def reach(point: Point) -> None:
    """Be at a point of the code. Does not return if this process is to die here."""
    if _heed is not None:
        _heed(point)


@contextmanager
def heeded(by: Heed) -> Iterator[None]:
    """Have `by` called with every point that anything in this process reaches, until the block ends."""
    global _heed  # noqa: PLW0603 - what reaches points is everywhere and must not carry this along
    before, _heed = _heed, by
    try:
        yield
    finally:
        _heed = before


def heed_environment() -> None:
    """Let this process die where the files in OAKESTRA_FAIL_POINTS say, for as long as it lives; nowhere without."""
    global _heed  # noqa: PLW0603 - as above
    directory = os.environ.get(DIRECTORY)  # noqa: TID251 - the one place; no tier's setting, but a test's
    if directory:
        _heed = partial(_die_if_armed, Path(directory))


def _die_if_armed(directory: Path, point: Point) -> None:
    file = directory / point.value
    try:
        meant = file.read_text()
        if meant and int(meant) != os.getpid():
            return
        file.rename(f"{file}.{os.getpid()}")
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
