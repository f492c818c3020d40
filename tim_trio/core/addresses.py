"""What counts as one address, for bounds and rates."""

from __future__ import annotations

import functools
import ipaddress


@functools.lru_cache(maxsize=1024)
def network_of(address: str) -> str:
    """Return what counts as one address: a whole /64 of IPv6 belongs to one customer."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))
