"""Root's HTTP API: the original's routes, our own under `/api/v1`, and their description."""

from __future__ import annotations

from oakestra.control.clock import Clock
from oakestra.root.api.accounts import AccountsApi
from oakestra.root.api.applications import ApplicationsApi
from oakestra.root.api.clusters import ClustersApi
from oakestra.root.api.execution import ExecutionApi
from oakestra.root.api.gate import Gate
from oakestra.root.api.own import OwnApi
from oakestra.root.api.pages import Description
from oakestra.root.api.reach import Reach
from oakestra.root.api.sessions import Sessions
from oakestra.root.api.stories import Remedies, StoriesApi
from oakestra.root.api.upkeep import UpkeepApi
from oakestra.root.api.views import Views
from oakestra.root.operations import Operations
from oakestra.root.state import RootState
from oakestra.root.users.accounts import Accounts
from oakestra.store.event_log import EventLog
from oakestra.transport.http_server import Endpoint


def endpoints(
    *,
    state: RootState,
    events: EventLog,
    operations: Operations,
    accounts: Accounts,
    views: Views,
    reach: Reach,
    remedies: Remedies,
    clock: Clock,
    public_clusters: bool = False,
) -> list[Endpoint]:
    """Return every route of root's API; hand them to `transport.http_server.application`.

    `public_clusters` lists clusters to who is not logged in, as the original does.
    """
    gate = Gate(accounts)
    own = OwnApi(
        operations, views, gate, call_worker=reach.call, clock=clock, epoch=lambda: state.records.epoch
    )
    routes = [
        *AccountsApi(accounts, views, gate).endpoints(),
        *ApplicationsApi(operations, views, gate).endpoints(),
        *ClustersApi(views, gate, public=public_clusters).endpoints(),
        *own.endpoints(),
        *ExecutionApi(operations, views, gate, reach, sessions=Sessions(clock)).endpoints(),
        *StoriesApi(state, events, operations, gate, call_worker=reach.call, remedies=remedies).endpoints(),
        *UpkeepApi(state, operations, views, gate, reach).endpoints(),
    ]
    return [*routes, *Description(routes).endpoints()]
