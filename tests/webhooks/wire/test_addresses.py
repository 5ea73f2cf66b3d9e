"""The address table against an oracle written from the IANA registries, not from the table."""

import random
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from pytest_django import Settings

from tests.webhooks.sending import policy

# IANA IPv4 and IPv6 special-purpose address registries: block, whether it is globally reachable.
# Multicast and what is unassigned comes from the address space registries.
REGISTRY = {
    "0.0.0.0/8": False, "10.0.0.0/8": False, "100.64.0.0/10": False, "127.0.0.0/8": False,
    "169.254.0.0/16": False, "172.16.0.0/12": False, "192.0.0.0/24": False, "192.0.0.0/29": False,
    "192.0.0.8/32": False, "192.0.0.9/32": True, "192.0.0.10/32": True, "192.0.0.170/32": False,
    "192.0.0.171/32": False, "192.0.2.0/24": False, "192.31.196.0/24": True,
    "192.52.193.0/24": True, "192.88.99.0/24": False, "192.168.0.0/16": False,
    "192.175.48.0/24": True, "198.18.0.0/15": False, "198.51.100.0/24": False,
    "203.0.113.0/24": False, "224.0.0.0/4": False, "240.0.0.0/4": False, "255.255.255.255/32": False,
    "::/0": False, "2000::/3": True, "::1/128": False, "::/128": False, "64:ff9b::/96": True,
    "64:ff9b:1::/48": False, "100::/64": False, "100:0:0:1::/64": False, "2001::/23": False,
    "2001::/32": False, "2001:1::1/128": True, "2001:1::2/128": True, "2001:1::3/128": True,
    "2001:2::/48": False, "2001:3::/32": True, "2001:4:112::/48": True, "2001:10::/28": False,
    "2001:20::/28": True, "2001:30::/28": True, "2001:db8::/32": False, "2002::/16": False,
    "2620:4f:8000::/48": True, "3fff::/20": False, "5f00::/16": False, "fc00::/7": False,
    "fe80::/10": False, "fec0::/10": False, "ff00::/8": False,
}  # fmt: skip
STRICTER = [
    ip_network(block)
    for block in (
        "192.0.0.0/24",
        "168.63.129.16/32",
        "64:ff9b::/96",
        "2001::/23",
        "2620:4f:8000::/48",
    )
]
"""Reachable by the registry, but never somebody's webhook: protocol anycast and translators."""
BLOCKS = sorted(
    ((ip_network(block), reachable) for block, reachable in REGISTRY.items()),
    key=lambda entry: -entry[0].prefixlen,
)
PUBLIC_BLOCKS = [
    "1.1.1.0/24", "5.0.0.0/16", "8.8.8.0/24", "17.0.0.0/8", "34.64.0.0/10", "93.184.0.0/16",
    "151.101.0.0/16", "185.199.108.0/22", "2001:4860::/32", "2400:cb00::/32", "2600:1f00::/24",
    "2606:4700::/32", "2800:3f0::/32", "2a00:1450::/29", "2a01:4f8::/32", "2c0f:fb50::/32",
]  # fmt: skip
"""Handed out by the regional registries to networks that people host at."""


def verdict(address: IPv4Address | IPv6Address) -> bool | None:
    """What the registries say: reachable or not; None where we are stricter on purpose."""
    if isinstance(address, IPv6Address) and int(address) >> 32 == 0xFFFF:
        address = IPv4Address(int(address) & 0xFFFFFFFF)
    if any(address in block for block in STRICTER if block.version == address.version):
        return None
    for block, reachable in BLOCKS:
        if block.version == address.version and address in block:
            return reachable
    return True


def random_addresses(count: int, seed: int) -> list[IPv4Address | IPv6Address]:
    """Anywhere, inside every registered block, one beside its ends, and IPv4 dressed as IPv6."""
    dice = random.Random(seed)
    blocks = [block for block, _ in BLOCKS]
    found: list[IPv4Address | IPv6Address] = []
    while len(found) < count:
        block = dice.choice(blocks)
        space = 1 << block.max_prefixlen
        within = int(block[0]) + dice.randrange(block.num_addresses)
        edge = (int(dice.choice((block[0], block[-1]))) + dice.choice((-1, 0, 1))) % space
        v4 = dice.choice((dice.getrandbits(32), 0x7F000001, 0x0A000001, 0xA9FEA9FE))
        found += [
            type(block[0])(within),
            type(block[0])(edge),
            IPv4Address(dice.getrandbits(32)),
            IPv6Address(dice.getrandbits(128)),
            IPv6Address((1 << 125) + dice.getrandbits(125)),
            IPv6Address(dice.choice((0, 0xFFFF << 32, 0xFFFF << 48, 0x64FF9B << 96)) + v4),
            IPv6Address((0x2002 << 112) + (v4 << 80)),
        ]
    return found[:count]


def test_a_hundred_thousand_addresses_agree_with_the_registries() -> None:
    is_allowed = policy().is_allowed

    wrong = [
        f"{address}: {is_allowed(str(address))}"
        for address in random_addresses(100_000, seed=5)
        if (expected := verdict(address)) is not None and is_allowed(str(address)) != expected
    ]

    assert wrong == []


def test_public_addresses_are_never_refused() -> None:
    dice = random.Random(6)
    blocks = [ip_network(block) for block in PUBLIC_BLOCKS]
    addresses = [block[dice.randrange(block.num_addresses)] for block in blocks for _ in range(63)]

    refused = [str(address) for address in addresses if not policy().is_allowed(str(address))]

    assert len(addresses) >= 1000
    assert refused == []


@pytest.mark.parametrize(
    "address",
    ["", "localhost", "127.1", "2130706433", "0x7f.1", "fe80::1%eth0", "2606:4700::1%eth0", "1.1.1.1 "],
)  # fmt: skip
def test_what_is_not_a_plain_address_is_refused(address: str) -> None:
    assert not policy().is_allowed(address)


def test_exempt_network_is_allowed_in_its_mapped_spelling_too() -> None:
    opened = policy("10.1.0.0/16")

    assert opened.is_allowed("10.1.2.3")
    assert opened.is_allowed("::ffff:10.1.2.3")
    assert not opened.is_allowed("10.2.0.1")
    assert not opened.is_allowed("::10.1.2.3")


def test_allowed_translator_does_not_open_what_lies_behind_it() -> None:
    opened = policy("64:ff9b::/96")

    assert opened.is_allowed("64:ff9b::101:101")
    assert not opened.is_allowed("64:ff9b::7f00:1")
    assert not opened.is_allowed("64:ff9b::a9fe:a9fe")


def test_own_networks_are_forbidden_even_where_allowed(settings: Settings) -> None:
    settings.WEBHOOKS_FORBIDDEN_NETWORKS = [ip_network("93.184.216.0/24")]

    opened = policy("93.184.0.0/16")

    assert opened.is_allowed("93.184.1.1")
    assert not opened.is_allowed("93.184.216.34")


def test_only_listed_ports_are_allowed(settings: Settings) -> None:
    settings.WEBHOOKS_ALLOWED_PORTS = [range(443, 444), range(8000, 8100)]

    allowed = [
        port
        for port in (0, 22, 80, 443, 444, 8000, 8099, 8100, 65535)
        if policy().is_port_allowed(port)
    ]

    assert allowed == [443, 8000, 8099]


def test_oracle_knows_what_it_should() -> None:
    assert verdict(ip_address("127.0.0.1")) is False
    assert verdict(ip_address("::ffff:127.0.0.1")) is False
    assert verdict(ip_address("2002:7f00:1::")) is False
    assert verdict(ip_address("192.0.0.9")) is None
    assert verdict(ip_address("93.184.216.34")) is True
    assert verdict(ip_address("4000::1")) is False
