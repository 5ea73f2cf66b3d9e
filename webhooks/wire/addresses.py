"""The addresses that our servers may connect to. The table is our own, because `ipaddress` differs
between Python versions and calls several special ranges global.

Always decide on the numeric address to connect to, never on a name or a URL.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from django.conf import settings

FORBIDDEN_V4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host
        "169.254.0.0/16",  # link-local, cloud metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
]
GLOBAL_V6 = IPv6Network("2000::/3")
"""All addresses that are routed on the internet today; everything outside is refused."""
FORBIDDEN_V6 = [
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocol assignments, Teredo, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
]
NAT64 = IPv6Network("64:ff9b::/96")
"""Stands for the IPv4 address in its last four bytes, behind a network's translator."""

Network = IPv4Network | IPv6Network


class AddressPolicy:
    """The table above, except networks that the deployment allows on purpose.

    Every policy refuses the deployment's own networks (WEBHOOKS_FORBIDDEN_NETWORKS) and allows only
    the ports of WEBHOOKS_ALLOWED_PORTS.
    """

    def __init__(self, allowed_networks: Iterable[Network] = ()) -> None:
        self._allowed = tuple(allowed_networks)
        self._forbidden = tuple(settings.WEBHOOKS_FORBIDDEN_NETWORKS)
        self._ports = tuple(settings.WEBHOOKS_ALLOWED_PORTS)
        self.is_allowed = lru_cache(maxsize=4096)(self._is_allowed)
        """Say whether a numeric address (no name, no scope) may be connected to."""

    @property
    def has_exemptions(self) -> bool:
        return bool(self._allowed)

    def is_port_allowed(self, port: int) -> bool:
        return any(port in ports for ports in self._ports)

    def _is_allowed(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return self._may_connect(parsed)

    def _may_connect(self, address: IPv4Address | IPv6Address) -> bool:
        if isinstance(address, IPv6Address):
            if address.scope_id is not None:
                return False
            address = address.ipv4_mapped or address
        if any(address in network for network in self._forbidden):
            return False
        is_exempt = any(address in network for network in self._allowed)
        if address in NAT64:
            # An allowed translator does not allow the addresses behind it.
            return is_exempt and self._may_connect(IPv4Address(int(address) & 0xFFFFFFFF))
        return is_exempt or _is_public(address)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in FORBIDDEN_V4)
    return address in GLOBAL_V6 and not any(address in network for network in FORBIDDEN_V6)


def is_public_network(network: Network) -> bool:
    """Say whether every address of a network is public."""
    if isinstance(network, IPv4Network):
        return not any(network.overlaps(forbidden) for forbidden in FORBIDDEN_V4)
    return network.subnet_of(GLOBAL_V6) and not any(map(network.overlaps, FORBIDDEN_V6))
