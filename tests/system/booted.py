"""A machine that systemd runs: booted on a copy of this one's files, in namespaces and control groups of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from machine import Machine, cgroups_of, until

from prerequisites import cannot_run

CHECKOUT = Path(__file__).parents[2]
SYSTEMD = "/lib/systemd/systemd"
BOOTED_WITHIN_S = 120.0

# What would reach for the machine's devices, clock and settings stays out.
MASKED = """
    systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket
    systemd-sysctl.service systemd-modules-load.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount
    systemd-random-seed.service systemd-update-utmp.service systemd-remount-fs.service systemd-hwdb-update.service
    systemd-logind.service systemd-timesyncd.service networking.service dev-hugepages.mount dev-mqueue.mount
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount
    getty.target timers.target
"""
_BOOT = r"""
set -e
name=$1 files=$2 checkout=$3
hierarchies=$(awk '$(NF-2) ~ /^cgroup2?$/ && $4 == "/" {print $5, $(NF-2), $NF}' /proc/self/mountinfo)
while read -r point _; do
    mkdir -p "$point/$name"
    case $point in */cpuset) for file in cpus mems; do
        cat "$point/cpuset.$file" >"$point/$name/cpuset.$file"; done ;; esac
    echo $$ >"$point/$name/cgroup.procs"
done <<<"$hierarchies"
export hierarchies
exec unshare --mount --pid --fork --net --cgroup --uts --ipc bash -c '
    set -e
    name=$1 files=$2 checkout=$3 masked=$4
    mount --make-rprivate /
    mount -t overlay overlay -o lowerdir=/,upperdir=$files/upper,workdir=$files/work $files/root
    cd $files/root
    mount -t proc proc proc
    mount --bind proc/sys proc/sys
    mount -o remount,ro,bind proc/sys
    mount --bind proc/sys/net proc/sys/net
    mount -o remount,rw,bind proc/sys/net
    mount -t sysfs -o ro sysfs sys
    for place in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs $place; done
    for device in null zero full random urandom tty; do cp -a /dev/$device dev/; done
    mkdir dev/pts dev/shm
    mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    if [[ $hierarchies != "/sys/fs/cgroup cgroup2 "* ]]; then mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup; fi
    while read -r point kind options; do
        mkdir -p .$point
        mount -t $kind -o ${options#rw,} cgroup .$point
    done <<<"$hierarchies"
    mkdir -p .$checkout var/lib/oakestra
    mount --bind $checkout .$checkout
    mount --bind $files/state var/lib/oakestra
    : >etc/machine-id
    : >etc/fstab
    if [[ ! -e etc/booted ]]; then
        rm -rf etc/systemd/system/*.wants etc/systemd/system/oakestra-* var/log/oakestra
        for unit in $masked; do ln -sf /dev/null etc/systemd/system/$unit; done
        touch etc/booted
    fi
    ip link set lo up
    exec env -i container=$name PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . SYSTEMD --system --unit=multi-user.target
' inside "$name" "$files" "$checkout" "$4"
""".replace("SYSTEMD", SYSTEMD)


@dataclass
class Booted(Machine):
    """Runs `oak` as a user of a machine with systemd would."""

    boots: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def enter(
        self, *command: str, check: bool = True, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ("nsenter", f"--target={self._first_process()}", "--all", "--root", "--wd", "--", *command),
            capture_output=True, text=True, timeout=timeout_s, check=False,
            env={"PATH": os.environ["PATH"], "HOME": "/root"},  # noqa: TID251
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def boot(self) -> None:
        """Switch it on, and wait until it has started what it starts by itself."""
        with (self.home / "boot.log").open("ab") as log:
            self.boots.append(
                subprocess.Popen(
                    ("bash", "-c", _BOOT, "boot", self.name, str(self.home), str(CHECKOUT), MASKED),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )
            )  # fmt: skip
        until(lambda: self.is_up() or self.boots[-1].poll() is not None, BOOTED_WITHIN_S)

    def is_up(self) -> bool:
        """Tell whether systemd has nothing left to start."""
        try:
            said = self.enter("systemctl", "is-system-running", check=False).stdout.strip()
        except StopIteration:
            return False
        return said in {"running", "degraded"}

    def cut_power(self) -> None:
        """End everything on it at once."""
        boot = self.boots[-1]
        with contextlib.suppress(StopIteration, ProcessLookupError):
            os.kill(int(self._first_process()), 9)
        boot.wait(60)
        for group in reversed(cgroups_of(self.name)):
            until(lambda group=group: _removed(group))  # type: ignore[misc]

    def _first_process(self) -> str:
        pid = self.boots[-1].pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        return next(iter(children.read_text().split()))


def _removed(group: Path) -> bool:
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


@contextmanager
def a_booted_machine(name: str, home: Path) -> Iterator[Booted]:
    """Boot a machine, and leave nothing of it."""
    if not Path(SYSTEMD).exists() or shutil.which("unshare") is None:
        cannot_run("systemd is missing: apt-get install systemd")
    for folder in ("upper", "work", "root", "state"):
        (home / folder).mkdir()
    machine = Booted(name, home)
    machine.boot()
    try:
        if not machine.is_up():
            cannot_run(f"systemd does not boot in namespaces here: {(home / 'boot.log').read_text()[-500:]}")
        yield machine
    finally:
        machine.cut_power()
