"""Bring a lab up, and log in to it."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from oakestra.cli import config, installation, tiers
from oakestra.cli.client import session
from oakestra.cli.keeping import readiness
from oakestra.cli.keeping.programs import FRUGAL, code_digest
from oakestra.cli.keeping.supervised import Supervised
from oakestra.control.installation import Installation
from oakestra.lab import kernel, plan, power, record
from oakestra.lab.plan import Host, Lab
from oakestra.model.errors import Conflict, OakestraError
from oakestra.runtime.images.build import EXAMPLE_REFERENCE, build_example
from oakestra.runtime.machine import LinuxMachine
from oakestra.transport import local

CLUSTERS, WORKERS = 1, 2
LOADED_WITHIN_S = 120.0
LOADED_AT_ONCE = 4


def up(name: str, *, clusters: int | None, workers: int | None) -> None:
    """Have the lab up and well; safe to repeat, also after it was cut off."""
    plan.check_name(name)
    with record.turn(name, wait_s=0.0):
        begun_s = time.monotonic()
        lab = _claimed(name, clusters=clusters, workers=workers)
        found = plan.hosts(lab)
        print(f"lab {name}: {_size(lab)} in {lab.network}", flush=True)
        power.let_go_on(lab)
        supervise(lab)
        _tell(f"{len(found)} hosts and a switch", begun_s)
        for host in found:
            installation.until_well(check(host), Supervised(Installation(host.installation)))
        _have_example([host for host in found if host.tier == "worker"])
        _log_in(lab)


def supervise(lab: Lab) -> None:
    """Have the lab's supervisor run, and run what belongs to the lab now."""
    home = record.home(lab.name)
    programs = plan.programs(
        lab,
        python=sys.executable,
        environment=FRUGAL | plan.for_tiers(readiness.environment()),
        revision=code_digest(),
        memory_mib=_memory_mib(lab),
    )
    Supervised(home).start(programs)


def check(host: Host) -> readiness.Check:
    """Return how to ask a host's tier, from outside the lab."""
    listening = {} if host.tier == "worker" else {"listen": host.address}
    return readiness.check(host.tier, {**plan.flags(host, memory_mib=0), **listening})


def root_url(lab: Lab) -> str:
    """Return where the lab's root answers."""
    root = plan.host(lab, "root")
    settings = tiers.read_configuration("root", {"installation": root.installation})
    return f"http://{root.address}:{settings.api_port}"


def log_out(name: str) -> None:
    """Forget the login to a lab that goes away; without a record of the lab, there is none to be found."""
    try:
        lab = record.read(name)
        if lab is not None:
            config.forget(config.environment().file, root_url(lab))
    except OakestraError as error:
        print(f"  the login to the lab is not forgotten: {error}")


def _claimed(name: str, *, clusters: int | None, workers: int | None) -> Lab:
    """Return the lab of that name, its network made; a new one gets addresses that nobody else uses."""
    with record.turn(wait_s=60.0):
        lab = record.read(name)
        if lab is None:
            lab = Lab(
                name=name,
                clusters=CLUSTERS if clusters is None else clusters,
                workers=WORKERS if workers is None else workers,
                network=plan.choose_network((*kernel.networks_in_use(), *_networks_of_labs())),
            )
            plan.check(lab)
            record.write(lab)
        elif (clusters or lab.clusters, lab.workers if workers is None else workers) != (
            lab.clusters,
            lab.workers,
        ):
            raise Conflict(
                f"there is a lab {name} with {_size(lab)}; "
                f"take it away first (oak lab down --name {name}), or give this one another --name"
            )
        kernel.build(lab)
        return lab


def _networks_of_labs() -> Iterable[str]:
    names = plan.named_in((), (), record.installations())
    labs = [record.read(name) for name in sorted(names)]
    return [lab.network for lab in labs if lab is not None]


def _memory_mib(lab: Lab) -> int:
    """Return a worker's share of this machine's memory: together they promise what there is, once."""
    machine = LinuxMachine(state_dir=Path("/"), virtualizations=())
    return machine.capacity().resources.memory_mib // max(1, lab.clusters * lab.workers)


def _have_example(workers: list[Host]) -> None:
    """Have the example's image on every worker. A lab without it is as good, so what is amiss is only told."""
    if not workers:
        return
    begun_s = time.monotonic()
    sockets = [tiers.read_configuration("worker", plan.flags(host, memory_mib=0)).socket for host in workers]
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(LOADED_AT_ONCE) as pool:
        archive = Path(directory) / "example.tar"
        try:
            build_example(archive)
            for _ in pool.map(lambda socket: _load(socket, archive), sockets):
                pass
        except OakestraError as error:
            print(f"  ✗ the example's image is not on every worker: {error}")
        else:
            _tell(f"image {EXAMPLE_REFERENCE} is on every worker", begun_s)


def _load(socket: Path, archive: Path) -> None:
    """Load the example's image where it is not yet."""
    images = local.call(socket, "image_ls", {}, timeout_s=LOADED_WITHIN_S)
    if not any(item["image"]["reference"] == EXAMPLE_REFERENCE for item in images):
        for _ in local.call(socket, "image_load", {"path": str(archive)}, timeout_s=LOADED_WITHIN_S):
            pass


def _log_in(lab: Lab) -> None:
    root = plan.host(lab, "root")
    settings = tiers.read_configuration("root", plan.flags(root, memory_mib=0))
    url = root_url(lab)
    password = settings.admin_password or settings.password_file.read_text().strip()
    login = session.log_in(url, session.ADMIN, password)
    config.remember(config.environment().file, url, login, current=False)
    chosen = "" if lab.name == plan.DEFAULT_NAME else f" --name {lab.name}"
    print(f"""
  API            {url}/api/docs
  user           {session.ADMIN}
  password       {"the one you chose" if settings.admin_password else password}

  eval "$(oak lab env{chosen})"
      has `oak` in this shell ask the lab's root; it is logged in
  oak app create examples/web.json --deploy --wait
      deploys the example
  oak lab status{chosen}
      tells how every host is
  oak lab cut{chosen} {plan.hosts(lab)[-1].name}
      shows what happens when a machine is cut off; `heal` undoes it
  oak lab down{chosen}
      takes everything away
""")


def _size(lab: Lab) -> str:
    clusters = "1 cluster" if lab.clusters == 1 else f"{lab.clusters} clusters"
    return f"{clusters} of {lab.workers} worker{'' if lab.workers == 1 else 's'}"


def _tell(what: str, begun_s: float) -> None:
    print(f"  ✓ {what} ({time.monotonic() - begun_s:.1f} s)", flush=True)
