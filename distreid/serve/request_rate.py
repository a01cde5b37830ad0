"""How often one client may ask: a bucket of requests that fills as time goes by."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict

MAX_CLIENTS = 10_000  # that are remembered; beyond it those that asked longest ago are forgotten


class RequestRate:
    """Of each client `rate` requests a second on average, and as many at once, but at least one."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._most = max(1.0, rate)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def takes(self, client: str, now: float | None = None) -> bool:
        """Whether it may ask now, which is counted; `now` is of a monotonic clock."""
        now = time.monotonic() if now is None else now
        client = _network(client)
        left, since = self._left.pop(client, (self._most, now))
        left = min(self._most, left + (now - since) * self.rate)
        may = left >= 1
        self._left[client] = (left - may, now)
        if len(self._left) > MAX_CLIENTS:
            self._left.popitem(last=False)
        return may


def _network(client: str) -> str:
    """Who has one address of IPv6 mostly has all of its /64."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return client
