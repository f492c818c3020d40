"""Links between nodes with TLS: who may link to whom, by certificates as well as by the secret."""

from __future__ import annotations

import functools
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
import structlog.testing
import trio
import trustme

from tests.cluster.etcd_process import EtcdMember
from tests.cluster.nodes import RunningNode, cloud, eventually
from tests.cluster.processes import running_nodes
from tests.net.certificates import Certificates
from tests.net.rawclient import HELLO
from tim_trio.cluster.link import NodeLink
from tim_trio.errors import Code
from tim_trio.net.tls import NodeTls
from tim_trio.protocol import messages
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.stream import StreamFrame


class Authority:
    """Who issues the certificates of all nodes of a test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA()

    def certificates(self, name: str) -> Certificates:
        directory = self.directory / name
        directory.mkdir()
        return Certificates(directory, self.ca)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def node_tls(files: Certificates) -> NodeTls:
    return NodeTls(files.certificate, files.key, files.authority, poll_interval_s=0.02)


async def link_from(node: RunningNode, to: str) -> NodeLink | None:
    """Have a node link to another; None where it cannot."""
    found: list[NodeLink | None] = []
    done = trio.Event()

    def use(link: NodeLink | None) -> None:
        found.append(link)
        done.set()

    with trio.fail_after(30):
        node.cluster.links.with_link(to, use)
        await done.wait()
    return found[0]


async def test_streams_and_requests_go_over_links_with_tls(
    etcd: EtcdMember, prefix: str, authority: Authority
) -> None:
    def tls_of(name: str) -> NodeTls:
        return node_tls(authority.certificates(name))

    async with (
        cloud(etcd.url, prefix, "a", "b", "c", tls_of=tls_of) as nodes,
        nodes["a"].client("alice") as alice,
        nodes["b"].client("bob") as bob,
        nodes["c"].client("carl") as carl,
    ):
        room = await alice.register_room()
        sent = [bytes([i % 251]) * (1 + 997 * i) for i in range(60)]
        async with (
            alice.publish(room) as source,
            bob.subscribe(room) as one,
            carl.subscribe(room) as other,
        ):
            for i, payload in enumerate(sent):
                await source.send(payload, key=i % 10 == 0)
            for stream in (one, other):
                seen: list[bytes] = []
                with trio.fail_after(30):
                    async for item in stream:
                        if isinstance(item, StreamFrame):
                            seen.append(item.payload)
                        if len(seen) == len(sent):
                            break
                assert seen == sent
        assert (await carl.room_info(room)).creator == "alice"
        # They are the only ones: over plain TCP no node is let in.
        assert not bob.server.capabilities & messages.Capability.LINKS
        for name in "abc":
            assert nodes[name].cluster.links.established


@pytest.mark.parametrize(
    "flaw, complaint",
    [
        ("another authority", "its certificate: unable to get local issuer certificate"),
        ("expired", "its certificate: certificate has expired"),
        ("another name", "its certificate: IP address mismatch"),
        ("none", "has no link_tls"),
    ],
)
async def test_who_has_not_the_right_certificate_is_not_linked_to(
    etcd: EtcdMember, prefix: str, authority: Authority, flaw: str, complaint: str
) -> None:
    def tls_of(name: str) -> NodeTls | None:
        files = authority.certificates(name)
        if name == "b":
            match flaw:
                case "another authority":
                    files.issue(ca=trustme.CA())
                case "expired":
                    files.issue(valid_for=-timedelta(days=1))
                case "another name":
                    files.issue("elsewhere.example")
                case _:
                    return None
        return node_tls(files)

    with structlog.testing.capture_logs() as lines:
        async with cloud(etcd.url, prefix, "a", "b", tls_of=tls_of) as nodes:
            if await link_from(nodes["a"], "b") is None:
                assert complaint in str([line for line in lines if line["event"] == "link failed"])
            else:  # b was the first to dial, as it may
                assert flaw == "another name"
            if flaw != "another name":
                assert await link_from(nodes["b"], "a") is None
                return
            # Whoever dials has no name to be checked; but it is told to wait while the
            # other dials in vain.
            with trio.fail_after(30):
                while await link_from(nodes["b"], "a") is None:  # noqa: ASYNC110
                    await trio.sleep(0.05)


def _frames(data: bytes) -> list[object]:
    found = []
    for item in Decoder(max_frame_bytes=1 << 20, max_init_bytes=1 << 20).feed(data):
        assert isinstance(item, ControlFrame)
        found.append(messages.decode(item.type, item.fields))
    return found


async def _talk(port: int, data: bytes, tls: ssl.SSLContext | None) -> bytes:
    """Send something to a port; return all that comes back until its end."""
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
    if tls is not None:
        stream = trio.SSLStream(stream, tls, server_hostname="127.0.0.1", https_compatible=True)
    got = b""
    with trio.move_on_after(2):
        async with stream:
            await stream.send_all(data)
            while piece := await stream.receive_some(4096):
                got += piece
                if len(got) > 40 and len(_frames(got)) > 1:
                    break
    return got


async def test_the_link_port_is_for_nodes_alone(
    etcd: EtcdMember, prefix: str, authority: Authority
) -> None:
    files = authority.certificates("a")
    data = messages.encode(HELLO, 1) + messages.encode(
        messages.Authenticate(
            method=messages.AuthMethod.NAME, account="alice", secret=b"", device=""
        ),
        2,
    )
    async with cloud(etcd.url, prefix, "a", tls_of=lambda _: node_tls(files)) as nodes:
        address = nodes["a"].cluster.membership.me.link
        talk = functools.partial(_talk, int(address.rpartition(":")[2]), data)
        # Plain TCP.
        (close,) = _frames(await talk(None))
        assert isinstance(close, messages.Close)
        assert close.code == Code.UNSUPPORTED_VERSION
        # TLS without a certificate, and with one of nobody's.
        context = files.client_context()
        with pytest.raises(trio.BrokenResourceError):
            await talk(context)
        stranger = Certificates(_made(authority.directory / "stranger"))
        context.load_cert_chain(stranger.certificate, stranger.key)
        with pytest.raises(trio.BrokenResourceError):
            await talk(context)
        # A node's certificate without the secret is not an account.
        context = files.client_context()
        context.load_cert_chain(files.certificate, files.key)
        welcome, error = _frames(await talk(context))
        assert isinstance(welcome, messages.Welcome)
        assert welcome.capabilities & messages.Capability.LINKS
        assert isinstance(error, messages.Error)
        assert error.code == Code.NOT_SUPPORTED


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


async def test_new_certificates_are_for_new_links_and_the_old_ones_live_on(
    etcd: EtcdMember, prefix: str, authority: Authority
) -> None:
    files = {name: authority.certificates(name) for name in "abc"}
    tls = {name: node_tls(files[name]) for name in files}

    async with cloud(etcd.url, prefix, "a", "b", "c", tls_of=lambda name: tls[name]) as nodes:
        first = await link_from(nodes["a"], "b")
        assert first is not None
        # Another authority, as when the old one's time is over.
        renewed = trustme.CA()
        before = [each.context for each in tls.values()]
        for name in files:
            files[name].issue(ca=renewed)
            renewed.cert_pem.write_to_path(files[name].authority)
        await eventually(
            lambda: all(
                each.context is not old for each, old in zip(tls.values(), before, strict=True)
            ),
            "they are read again",
        )
        assert await link_from(nodes["a"], "c") is not None
        assert nodes["a"].cluster.links.get("b") is first
        # What cannot be used changes nothing.
        files["b"].key.write_bytes(b"nothing")
        await trio.sleep(0.1)
        first.outbox.abort(None)
        await eventually(
            lambda: nodes["a"].cluster.links.get("b") not in (None, first), "they link again"
        )


@pytest.mark.slow
async def test_processes_link_with_tls(etcd: EtcdMember, authority: Authority) -> None:
    files = authority.certificates("nodes")
    options = ["--set", "link_tls=127.0.0.1:0"]
    for key, path in (
        ("link_tls_cert", files.certificate),
        ("link_tls_key", files.key),
        ("link_tls_ca", files.authority),
    ):
        options += ["--set", f"{key}={path}"]
    with running_nodes(etcd.url, "n1", "n2", options=tuple(options)) as nodes:
        async with nodes["n1"].client("alice") as alice, nodes["n2"].client("bob") as bob:
            room = await alice.register_room()
            async with alice.publish(room) as source, bob.subscribe(room) as stream:
                await source.send(b"over TLS", key=True)
                with trio.fail_after(30):
                    item = await anext(stream)
                    while not isinstance(item, StreamFrame):
                        item = await anext(stream)
                assert item.payload == b"over TLS"
            await alice.remove_room(room)
        for name in ("n1", "n2"):
            log = nodes[name].log.read_text()
            assert "listening link-tls 127.0.0.1:" in log
            assert "link up" in log
