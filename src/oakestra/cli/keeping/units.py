"""Write down for systemd what should run. Pure: programs in, the text of unit and environment files out.

Facts about systemd are from systemd.unit(5), systemd.service(5), systemd.exec(5), and its NEWS for versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from oakestra.control.installation import Installation
from oakestra.control.supervisor import STOP_WITHIN_S, Program

BACKS_OFF_SINCE = 254
"""The version of systemd that can wait ever longer before it starts something again."""
_AGAIN_AFTER = ("RestartSec=2",)
_AGAIN_AFTER_EVER_LONGER = ("RestartSec=500ms", "RestartSteps=5", "RestartMaxDelaySec=10")
"""It counts every restart since the last `oak up`, not those in a row, so the longest wait is kept short."""

_ORCHESTRATOR = (
    "LimitNOFILE=65536",  # a connection for each worker, which the broker has from the cluster
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "PrivateDevices=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHome=read-only",  # where the program itself may be
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectSystem=strict",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
)
CONFINED: Mapping[str, tuple[str, ...]] = {
    "root": (
        *_ORCHESTRATOR,
        "CapabilityBoundingSet=CAP_DAC_READ_SEARCH CAP_NET_BIND_SERVICE",
    ),
    "cluster": (
        *_ORCHESTRATOR,  # the broker becomes a user of its own, whom the cluster signals and lets read one directory
        "CapabilityBoundingSet=CAP_CHOWN CAP_DAC_READ_SEARCH CAP_KILL CAP_NET_BIND_SERVICE CAP_SETGID CAP_SETUID",
    ),
    "worker": (
        "# Nothing confines a worker: its containers would inherit it, and its mounts must be seen by the next agent.",
        "OOMPolicy=continue",
        "TasksMax=infinity",
    ),
}
"""By tier: what it may do, and no more."""


def unit_name(installation: str, tier: str) -> str:
    """Return the unit's name: different for any two tiers of any two installations."""
    return f"oakestra-{installation.replace('/', '_')}-{tier}.service"


def render_unit(program: Program, home: Installation, *, environment_file: Path, version: int) -> str:
    """Return the unit of a tier, for a systemd of this version.

    It differs whenever the program must be restarted, but for a change of its environment, which may hold secrets
    and is in a file of its own: units are for everybody to read.
    """
    return "\n".join(_lines(program, home, environment_file, version)) + "\n"


def _lines(program: Program, home: Installation, environment_file: Path, version: int) -> Iterator[str]:
    tier = program.name
    yield f"# Written by `oak up`, which overwrites changes; settings are in {home.configuration(tier)}."
    yield "[Unit]"
    yield f"Description=Oakestra {tier} ({home.name})"
    yield f"After=network-online.target{''.join(f' {unit_name(home.name, above)}' for above in _above(tier))}"
    yield "Wants=network-online.target"
    yield "StartLimitIntervalSec=0"
    yield f"X-Oakestra-Revision={program.revision}"
    yield ""
    yield "[Service]"
    yield "Type=exec"
    yield f"ExecStart={' '.join(quoted(word) for word in program.command)}"
    yield f"EnvironmentFile={_escaped(str(environment_file))}"
    if program.netns:
        yield f"NetworkNamespacePath={_escaped(program.netns)}"
    yield "KillMode=process"
    yield f"TimeoutStopSec={STOP_WITHIN_S:.0f}"
    yield "Restart=always"
    yield from _AGAIN_AFTER_EVER_LONGER if version >= BACKS_OFF_SINCE else _AGAIN_AFTER
    yield f"SyslogIdentifier=oakestra-{tier}"
    yield from _directories(home, tier)
    yield from CONFINED[tier]
    yield ""
    yield "[Install]"
    yield "WantedBy=multi-user.target"


def _above(tier: str) -> tuple[str, ...]:
    return {"root": (), "cluster": ("root",), "worker": ("cluster",)}[tier]


def _directories(home: Installation, tier: str) -> Iterator[str]:
    """Yield what a tier that may write nowhere may write to; a worker may anyhow."""
    if tier == "worker":
        return
    for kind, mode, path in (
        ("State", "0700", home.state),
        ("Runtime", "0755", home.runtime),
        ("Logs", "0750", home.logs),
    ):
        yield f"{kind}Directory={path.relative_to(_PARENTS[kind])}"
        yield f"{kind}DirectoryMode={mode}"
    yield "RuntimeDirectoryPreserve=yes"
    # of its own, but not by PrivateTmp, which would hide a program that lives below /tmp or /var/tmp
    yield f"Environment={quoted(f'TMPDIR={home.state}')}"


_PARENTS = {"State": "/var/lib", "Runtime": "/run", "Logs": "/var/log"}


def render_environment(variables: Mapping[str, str]) -> str:
    """Return the environment file that gives a program these variables."""
    return "".join(f'{name}="{_shell_escaped(value)}"\n' for name, value in sorted(variables.items()))


def quoted(word: str) -> str:
    """Return a word of a command line so that systemd takes it as it is."""
    escaped = _escaped(word.replace("\\", "\\\\")).replace("$", "$$").replace('"', '\\"')
    if word and not any(character.isspace() or character in "\"'\\;" for character in word):
        return escaped
    return f'"{escaped}"'.replace("\n", "\\n").replace("\t", "\\t")


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _shell_escaped(value: str) -> str:
    for character in '\\"`$':
        value = value.replace(character, f"\\{character}")
    return value
