"""Names of things. Each kind has a type of its own, so two ids cannot be swapped by mistake.

Ids of users, organizations, applications, services, clusters and workers are 24 lower-case hex digits,
issued once and kept.
"""

from __future__ import annotations

import re
from typing import NewType

UserId = NewType("UserId", str)
OrganizationId = NewType("OrganizationId", str)
ApplicationId = NewType("ApplicationId", str)
ServiceId = NewType("ServiceId", str)
ClusterId = NewType("ClusterId", str)
WorkerId = NewType("WorkerId", str)

_ID = re.compile(r"[0-9a-f]{24}")


def is_id(text: str) -> bool:
    """Tell whether `text` has the shape of an id: 24 lower-case hex digits."""
    return _ID.fullmatch(text) is not None
