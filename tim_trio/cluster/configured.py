"""From the configuration's keys to what a node needs."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tim_trio.cluster.etcd import parse_endpoints
from tim_trio.cluster.secret import read_secret
from tim_trio.cluster.service import ClusterSettings
from tim_trio.config import Address, ServerConfig
from tim_trio.errors import TimError
from tim_trio.net.tls import NodeTls

_EVERYWHERE: Final = ("0.0.0.0", "::")


class ClusterConfigError(TimError):
    """A node cannot be configured like this; the message is one line for a person."""


def cluster_settings(
    config: ServerConfig,
    bound: Sequence[str],
    bound_links: Sequence[str] = (),
    *,
    shares_port: bool = False,
) -> ClusterSettings:
    """Return how this server takes part. Blocks: it reads files.

    ``bound``: the addresses its plain TCP listeners have, as ``HOST:PORT``;
    ``bound_links``: those of its link port; ``shares_port``: clients do not choose which
    of several processes takes them.

    Raises:
        ClusterConfigError, SecretFileError, TlsFileError: one line that says what is wrong.
    """
    address = _advertised(config, bound)
    link_tls = None
    if bound_links:
        link_tls = NodeTls(
            Path(config.link_tls_cert), Path(config.link_tls_key), Path(config.link_tls_ca)
        )
    return ClusterSettings(
        endpoints=parse_endpoints(config.cluster),
        address=address,
        public=_public(config, address, shares_port=shares_port),
        link_tls=link_tls,
        link_address=_link_address(config, address, bound_links),
        secret=read_secret(Path(config.cluster_secret_file)),
        weight=config.node_weight,
        fanout=config.link_fanout,
        user=config.etcd_user,
        password=_read_password(config.etcd_password_file),
        tls=_tls(config) if config.cluster.startswith("etcds:") else None,
    )


def _advertised(config: ServerConfig, bound: Sequence[str]) -> str:
    if config.advertise:
        return config.advertise
    for text in bound:
        address = Address.parse(text)
        if address.host not in _EVERYWHERE:
            return text
    raise ClusterConfigError(
        "advertise: other nodes must know where this one is; give --advertise HOST:PORT"
    )


def _public(config: ServerConfig, address: str, *, shares_port: bool) -> tuple[str, ...]:
    """Return where clients are told that they reach this node."""
    if config.public:
        return () if config.public == ("none",) else config.public
    return () if shares_port or not config.tcp else (f"tim://{address}",)


def _link_address(config: ServerConfig, address: str, bound_links: Sequence[str]) -> str:
    """Return where others reach the link port: by the name that was configured, which its
    certificate is for."""
    if not bound_links:
        return ""
    host = config.link_tls[0].host
    if host in _EVERYWHERE:
        host = Address.parse(address).host
    return str(Address(host, Address.parse(bound_links[0]).port))


def _read_password(file: str) -> str:
    if not file:
        return ""
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ClusterConfigError(f"etcd_password_file: cannot read {file}: {why}") from None


def _tls(config: ServerConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.etcd_ca_file or None)
        if config.etcd_cert_file:
            context.load_cert_chain(config.etcd_cert_file)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or "not certificates in PEM form"
        raise ClusterConfigError(f"etcd_ca_file, etcd_cert_file: {why}") from None
    return context
