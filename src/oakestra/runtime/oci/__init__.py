"""Containers through an OCI runtime (runc), each with conmon as its tiny supervisor. No daemon, no registry code.

The agent is disposable: everything it knows of a container is in files, and the container's processes are not
its children. What is where (`n` is the instance's number, `id` is oak-<worker>-<n>):

    <state_dir>/instances/<n>/   the bundle: instance.json (written first, removed last), config.json, upper, work
    <log_dir>/<n>/               log, log.1: what conmon writes; outlives the container
    <runtime_dir>/runc/<id>/     runc's own state: state.json, and exec.fifo until the container is started
    <runtime_dir>/exits/<id>     the exit code, written by conmon
    <cgroup_parent>/<n>          the cgroup, in every hierarchy
"""

from oakestra.runtime.oci.bundle import UnpackedImage
from oakestra.runtime.oci.record import images_in_use
from oakestra.runtime.oci.runtime import Images, OciRuntime

__all__ = ["Images", "OciRuntime", "UnpackedImage", "images_in_use"]
