"""Elements of nftables sets and maps, changed in one transaction; and what is in a table (nfnetlink)."""

from __future__ import annotations

import errno
import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from oakestra.network.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    Message,
    Netlink,
    attribute,
    nested,
    parse,
    text,
)

INET = 1
_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_GETTABLE, _DELTABLE, _GETCHAIN, _GETRULE = 1, 2, 4, 7
_NEWSETELEM, _GETSETELEM, _DELSETELEM, _GETGEN = 12, 13, 14, 16

_TABLE_NAME, _TABLE_USERDATA = 1, 6
_USERDATA_COMMENT = 0
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY = 1, 3, 4, 5
_HOOK_NUMBER = 1
_RULE_TABLE = 1
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_ELEMENT, _ELEMENT_KEY, _ELEMENT_DATA = 1, 1, 2
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_GEN_ID = 1
_GOTO = -4
_HEADER = struct.Struct(">BBH")
"""Address family, version, subsystem (of a batch)."""
_ELEMENTS_PER_MESSAGE = 600
"""An attribute's length has 16 bits."""

HOOK_FORWARD = 2
POLICY_DROP = 0

Value = bytes | str | None
"""What a map's element leads to: bytes, the chain that is gone to, or nothing for a set's."""


@dataclass(frozen=True, slots=True)
class Change:
    """Elements to add to one set or map, or to remove from it; `elements` holds key and value of each."""

    verb: Literal["add", "remove"]
    set: str
    elements: Sequence[tuple[bytes, Value]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain as it was seen; `hook` and `policy` only if packets come to it by themselves."""

    family: int
    table: str
    name: str
    hook: int | None
    policy: int | None


def _message(kind: int, flags: int, family: int, *attributes: bytes) -> Message:
    return Message(_SUBSYSTEM << 8 | kind, flags, _HEADER.pack(family, 0, 0) + b"".join(attributes))


def transact(netlink: Netlink, table: str, changes: Sequence[Change]) -> None:
    """Make all the changes at once, in this order, or none. Raises `NetlinkError` when one cannot be made."""
    messages = [change for each in changes for change in _change(table, each)]
    if messages:
        _in_one_batch(netlink, messages)


def delete_table(netlink: Netlink, table: str) -> None:
    """Remove a table and all in it; no-op when it is not there."""
    try:
        _in_one_batch(netlink, [_message(_DELTABLE, 0, INET, text(_TABLE_NAME, table))])
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def _in_one_batch(netlink: Netlink, messages: Sequence[Message]) -> None:
    edge = _HEADER.pack(0, 0, _SUBSYSTEM)
    netlink.request([Message(_BATCH_BEGIN, 0, edge), *messages, Message(_BATCH_END, 0, edge)])


def _change(table: str, change: Change) -> Iterator[Message]:
    kind, flags = (_NEWSETELEM, NLM_F_CREATE) if change.verb == "add" else (_DELSETELEM, 0)
    head = text(_LIST_TABLE, table) + text(_LIST_SET, change.set)
    for start in range(0, len(change.elements), _ELEMENTS_PER_MESSAGE):
        some = change.elements[start : start + _ELEMENTS_PER_MESSAGE]
        encoded = (_element(key, value if change.verb == "add" else None) for key, value in some)
        yield _message(kind, flags, INET, head, nested(_LIST_ELEMENTS, *encoded))


def _element(key: bytes, value: Value) -> bytes:
    parts = [nested(_ELEMENT_KEY, attribute(_DATA_VALUE, key))]
    if isinstance(value, str):
        code = attribute(_VERDICT_CODE, struct.pack(">i", _GOTO))
        parts.append(nested(_ELEMENT_DATA, nested(_DATA_VERDICT, code, text(_VERDICT_CHAIN, value))))
    elif value is not None:
        parts.append(nested(_ELEMENT_DATA, attribute(_DATA_VALUE, value)))
    return nested(_ELEMENT, *parts)


def elements(netlink: Netlink, table: str, set: str) -> dict[bytes, Value]:
    """Return every element of a set or map."""
    request = _message(_GETSETELEM, NLM_F_DUMP, INET, text(_LIST_TABLE, table), text(_LIST_SET, set))
    found: dict[bytes, Value] = {}
    for raw in netlink.dump(request):
        for kind, body in parse(raw, _HEADER.size):
            if kind == _LIST_ELEMENTS:
                found.update(_decoded(element) for _, element in parse(body))
    return found


def _decoded(raw: bytes) -> tuple[bytes, Value]:
    parts = dict(parse(raw))
    key = dict(parse(parts[_ELEMENT_KEY]))[_DATA_VALUE]
    if _ELEMENT_DATA not in parts:
        return key, None
    data = dict(parse(parts[_ELEMENT_DATA]))
    if _DATA_VALUE in data:
        return key, data[_DATA_VALUE]
    verdict = dict(parse(data[_DATA_VERDICT]))
    return key, verdict.get(_VERDICT_CHAIN, b"").rstrip(b"\0").decode()


def generation(netlink: Netlink) -> int:
    """Return a number that every change of anybody's rules raises."""
    for raw in netlink.dump(_message(_GETGEN, 0, 0)):
        return int(struct.unpack(">I", dict(parse(raw, _HEADER.size))[_GEN_ID])[0])
    return 0


def comment(netlink: Netlink, table: str) -> str | None:
    """Return the comment of a table, or None if there is no such table."""
    try:
        answers = list(netlink.dump(_message(_GETTABLE, 0, INET, text(_TABLE_NAME, table))))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    found = dict(parse(answers[0], _HEADER.size))
    return _comment(found.get(_TABLE_USERDATA, b""))


def _comment(userdata: bytes) -> str:
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _USERDATA_COMMENT:
            return userdata[offset + 2 : offset + 2 + length].rstrip(b"\0").decode()
        offset += 2 + length
    return ""


def chains(netlink: Netlink) -> Iterator[Chain]:
    """Yield the chains of every table of every family."""
    for raw in netlink.dump(_message(_GETCHAIN, NLM_F_DUMP, 0)):
        found = dict(parse(raw, _HEADER.size))
        hook = dict(parse(found[_CHAIN_HOOK])) if _CHAIN_HOOK in found else {}
        yield Chain(
            family=raw[0],
            table=_string(found[_CHAIN_TABLE]),
            name=_string(found[_CHAIN_NAME]),
            hook=struct.unpack(">I", hook[_HOOK_NUMBER])[0] if _HOOK_NUMBER in hook else None,
            policy=struct.unpack(">I", found[_CHAIN_POLICY])[0] if _CHAIN_POLICY in found else None,
        )


def _string(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode()


def fingerprint(netlink: Netlink, table: str) -> str:
    """Return a digest of all the rules of a table, the same for as long as nobody touches one."""
    digest = hashlib.sha256()
    for raw in netlink.dump(_message(_GETRULE, NLM_F_DUMP, INET, text(_RULE_TABLE, table))):
        digest.update(raw[_HEADER.size :])
    return digest.hexdigest()
