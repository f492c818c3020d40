"""Every bound of the server in one place: value, unit and the reason for it.

The configuration's ``[limits]`` table is made from these fields, so a bound
added here is configurable, documented and listed by ``tim_trio config``.
"""

from __future__ import annotations

from typing import TypeVar

import attrs

_Number = TypeVar("_Number", int, float)

KIB = 1024
MIB = 1024 * KIB
DAY_S = 86_400.0


def _bound(
    default: _Number, unit: str, why: str, *, least: _Number, most: _Number | None = None
) -> _Number:
    # attrs' stubs type a field by its default, so the annotation below holds.
    checks = [attrs.validators.ge(least)]
    if most is not None:
        checks.append(attrs.validators.le(most))
    field: _Number = attrs.field(
        default=default,
        validator=checks,
        metadata={"unit": unit, "why": why, "least": least, "most": most},
    )
    return field


@attrs.frozen(kw_only=True)
class Limits:
    """All bounds. Construction fails with ValueError on a value out of range."""

    # Frames
    max_frame_bytes: int = _bound(
        MIB,
        "bytes",
        "largest frame taken from a peer; at most backlog_bytes, so that an empty outbox "
        "holding one frame stays within its bound",
        least=4 * KIB,
        most=64 * MIB,
    )
    max_init_bytes: int = _bound(
        64 * KIB,
        "bytes",
        "largest INIT or END frame; these are never dropped, so their size must be small",
        least=KIB,
        most=MIB,
    )

    # Outboxes
    backlog_bytes: int = _bound(
        MIB,
        "bytes",
        "unsent bytes of one subscription before it lags; about 8 s of a 1 Mbit/s stream",
        least=4 * KIB,
        most=1024 * MIB,
    )
    backlog_age_s: float = _bound(
        1.0,
        "seconds",
        "age of a subscription's oldest unsent byte before it lags: live data that is "
        "older helps nobody",
        least=0.01,
        most=DAY_S,
    )
    connection_backlog_bytes: int = _bound(
        8 * MIB,
        "bytes",
        "unsent bytes of all subscriptions of one connection",
        least=4 * KIB,
    )
    node_backlog_bytes: int = _bound(
        1024 * MIB,
        "bytes",
        "unsent bytes of all connections of this process",
        least=MIB,
    )
    node_reliable_bytes: int = _bound(
        1024 * MIB,
        "bytes",
        "of them those that sources of reliable rooms hold, each counted once however many wait "
        "for the same; beyond it who makes the process hold most is closed as a slow consumer",
        least=64 * KIB,
    )
    control_backlog_bytes: int = _bound(
        512 * KIB,
        "bytes",
        "room kept free per connection for answers, events, INIT and END, which are never "
        "dropped; a connection that fills it is closed as a slow consumer",
        least=16 * KIB,
    )
    outbox_items: int = _bound(
        8192,
        "items",
        "pieces of live data queued per connection; bounds the overhead of tiny frames",
        least=64,
    )
    stall_timeout_s: float = _bound(
        10.0,
        "seconds",
        "a connection that takes no byte for this long is closed as a slow consumer",
        least=0.05,
        most=DAY_S,
    )

    # Cache
    room_cache_bytes: int = _bound(
        8 * MIB,
        "bytes",
        "cached groups of one room, overhead included; 8 MiB hold 10 s of 6 Mbit/s",
        least=0,
    )
    node_cache_bytes: int = _bound(
        512 * MIB, "bytes", "cached groups of all rooms of this process", least=0
    )

    # Connections
    max_connections: int = _bound(
        20_000, "connections", "in all; also bounded by the process's open files", least=1
    )
    max_connections_per_address: int = _bound(
        10_000,
        "connections",
        "from one address (a /64 of IPv6): half of max_connections, so that one address cannot "
        "keep all others out; lower it where clients do not share an address",
        least=1,
    )
    connections_per_s_per_address: float = _bound(
        500.0,
        "connections per second",
        "from one address, sustained; as many as max_connections_per_address at once",
        least=0.1,
    )
    max_unauthenticated: int = _bound(
        1_000,
        "connections",
        "that have not yet authenticated; beyond it the oldest of the address that has most of "
        "them makes room",
        least=1,
    )
    max_http_connections: int = _bound(
        1_000,
        "connections",
        "to the web port that ask for pages; a WebSocket is one of max_connections instead",
        least=1,
    )
    http_timeout_s: float = _bound(
        10.0,
        "seconds",
        "for an HTTP request to arrive, and for its answer to be taken at 4 KiB/s or more",
        least=0.05,
    )
    handshake_timeout_s: float = _bound(
        10.0, "seconds", "for HELLO and AUTHENTICATE together", least=0.05
    )
    ping_interval_s: float = _bound(
        20.0,
        "seconds",
        "of silence from a peer before it is pinged; it is closed two intervals later",
        least=0.05,
        most=DAY_S,
    )
    close_timeout_s: float = _bound(
        2.0, "seconds", "for a closing connection to take its last frames", least=0.05
    )

    read_together_ms: float = _bound(
        4.0,
        "milliseconds",
        "while eight or more peers send in turn, what they send is read together so often: "
        "a pass of the event loop for each piece costs as much as relaying it; 0 reads each "
        "at once",
        least=0.0,
        most=100.0,
    )

    # Requests
    commands_per_s: float = _bound(
        200.0, "requests per second", "per connection, sustained", least=1.0
    )
    command_burst: int = _bound(
        1_000, "requests", "per connection at once, above the sustained rate", least=1
    )
    commands_per_s_per_address: float = _bound(
        5_000.0,
        "requests per second",
        "of all connections from one address; beyond it they are slowed down, and nothing else: "
        "many may share it",
        least=1.0,
    )
    max_slowed_s: float = _bound(
        10.0,
        "seconds",
        "that a connection over a rate is slowed down within a minute; beyond it requests are "
        "refused, and the publisher of a live stream is warned, after as long again closed",
        least=0.0,
        most=60.0,
    )
    max_refused_commands: int = _bound(
        1_000,
        "requests",
        "refused for their rate within a minute before the connection is closed as flooding",
        least=1,
    )
    ask_interval_s: float = _bound(
        10.0, "seconds", "between two asks to push of one account in one room", least=0.0
    )
    asks_per_minute_per_room: float = _bound(
        60.0,
        "asks per minute",
        "to push in one room, of all accounts: its creator is to see them all",
        least=1.0,
    )

    # Bytes
    stream_bytes_per_s: float = _bound(
        1024.0 * MIB,
        "bytes per second",
        "of stream frames from one connection, over a second; more than one process relays, so "
        "lower it where strangers publish: 12_500_000 are 100 Mbit/s",
        least=1024.0,
    )
    stream_bytes_per_s_per_account: float = _bound(
        1024.0 * MIB,
        "bytes per second",
        "the same, of all connections of one account",
        least=1024.0,
    )
    account_stream_bytes_per_s: float = _bound(
        8.0 * MIB,
        "bytes per second",
        "of messages to accounts from one connection, each receiver counted; they are for "
        "signalling",
        least=1024.0,
    )
    account_stream_bytes_per_s_per_account: float = _bound(
        16.0 * MIB,
        "bytes per second",
        "the same, of all connections of one account",
        least=1024.0,
    )

    # Accounts
    logins_per_minute_per_address: float = _bound(
        120.0,
        "logins per minute",
        "by password from one address (a /64 of IPv6), registrations included; session and "
        "signed tokens count only where they fail",
        least=1.0,
    )
    logins_per_minute_per_account: float = _bound(
        30.0, "logins per minute", "by password, of one account", least=1.0
    )
    max_waiting_logins: int = _bound(
        32,
        "logins",
        "that wait for their password to be checked; the next ones are told to come back. "
        "Few enough to be through within handshake_timeout_s",
        least=1,
    )
    max_failed_logins: int = _bound(
        5, "logins", "refused on one connection before it is closed", least=1
    )
    max_devices_per_account: int = _bound(
        32,
        "devices",
        "signed in at once; one more signs the least recently used one out",
        least=1,
    )

    # Account streams
    max_account_stream_bytes: int = _bound(
        64 * KIB,
        "bytes",
        "payload of one message to accounts; in any case 512 less than max_frame_bytes",
        least=KIB,
        most=MIB,
    )
    max_receivers: int = _bound(
        256, "accounts", "that one message may be for", least=64, most=60_000
    )
    account_backlog_bytes: int = _bound(
        256 * KIB,
        "bytes",
        "unsent account streams of one connection; one sender may hold half of it, so that "
        "others get through",
        least=KIB,
    )
    max_contacts_per_account: int = _bound(
        10_000,
        "accounts",
        "that one account has asked, been asked by or as contacts; and blocks",
        least=1,
    )
    max_contacts_in_memory: int = _bound(
        200_000,
        "entries",
        "contacts and blocks of all accounts, where they are kept in memory; a contact is two",
        least=2,
    )

    # Rooms
    max_rooms: int = _bound(100_000, "rooms", "on this node", least=1)
    max_rooms_per_account: int = _bound(
        1_000, "rooms", "that one account may have registered at once", least=1
    )
    max_subscriptions: int = _bound(1_000, "subscriptions", "per connection", least=1, most=65_535)
    max_sources_per_room: int = _bound(
        1_000, "sources", "publishing in one room at once", least=1, most=60_000
    )
    max_sources_per_connection: int = _bound(1_000, "sources", "open on one connection", least=1)
    max_grants_per_room: int = _bound(
        1_000, "accounts", "granted push rights in one room", least=1, most=60_000
    )
    idle_timeout_s: float = _bound(
        300.0,
        "seconds",
        "without a stream frame before a room is destroyed",
        least=0.05,
        most=365 * DAY_S,
    )
    max_room_init_bytes: int = _bound(
        4 * MIB,
        "bytes",
        "pinned INIT frames of all tracks of one room, beside its cache",
        least=64 * KIB,
    )
    max_tracks_per_room: int = _bound(
        16_384,
        "tracks",
        "of all sources of a room; SUBSCRIBE's answer lists them, 10 bytes each",
        least=1,
    )
    min_reliable_rate: float = _bound(
        16.0 * KIB,
        "bytes per second",
        "that a subscriber must take of a reliable source that waits for it",
        least=0.0,
    )
    reliable_patience_s: float = _bound(
        10.0,
        "seconds",
        "a subscriber may hold up a reliable source at less than that rate",
        least=0.05,
    )
    linger_s: float = _bound(
        5.0,
        "seconds",
        "a source waits for its publisher to come back after its connection was lost; "
        "0 ends it at once",
        least=0.0,
        most=60.0,
    )
    viewers_interval_s: float = _bound(
        2.0, "seconds", "between two VIEWERS events about one room", least=0.01
    )

    def __attrs_post_init__(self) -> None:
        if self.max_frame_bytes > self.backlog_bytes:
            raise ValueError(
                f"max_frame_bytes ({self.max_frame_bytes}) must be at most "
                f"backlog_bytes ({self.backlog_bytes})"
            )
        if self.max_init_bytes > self.max_frame_bytes:
            raise ValueError(
                f"max_init_bytes ({self.max_init_bytes}) must be at most "
                f"max_frame_bytes ({self.max_frame_bytes})"
            )
