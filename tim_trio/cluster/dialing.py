"""Opening a link to another node.

Source: protocol.md, sections 6 and 12.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable
from typing import Final

import attrs
import trio

from tim_trio.cluster.membership import NodeInfo
from tim_trio.core.manager import RoomManager
from tim_trio.core.session import AGENT, PeerClosed, Session
from tim_trio.errors import ClusterError, Code, RemoteProtocolError
from tim_trio.net.byte_socket import ByteSocket
from tim_trio.net.connection import Arrival, TcpConnection, configure_socket, shake_hands
from tim_trio.net.readiness import ReadinessLoop
from tim_trio.net.tls_socket import TlsSocket
from tim_trio.protocol.decoder import ControlFrame
from tim_trio.protocol.layout import MAGIC, VERSION
from tim_trio.protocol.messages import (
    Authenticate,
    AuthMethod,
    Capability,
    Close,
    Error,
    Hello,
    Link,
    LinkAnswer,
    UnreadableFields,
    Welcome,
    decode,
    encode,
    type_of,
)

_CLOSE: Final = type_of(Close)
_WELCOME: Final = type_of(Welcome)
_ERROR: Final = type_of(Error)
_LINK_ANSWER: Final = type_of(LinkAnswer)


class DialFailed(ClusterError):
    """A node cannot be linked to now."""


class LinkRefused(DialFailed):
    """A node does not let us in; that does not pass by itself."""


@attrs.define(eq=False)
class DialedSession(Session):
    """The dialer's side of a link, up to LINK's answer.

    Attributes:
        on_link: gets the link once it is there.
        has_no_credentials: the other node does not believe us.
    """

    has_no_credentials: bool = False

    on_link: Callable[[Session, LinkAnswer, float], None] | None = None

    async def receive_control(self, frame: ControlFrame, now: float) -> None:
        if self.link is not None:
            self.link.receive_control(frame, now)
            return
        if frame.type == _CLOSE:
            raise PeerClosed
        try:
            message = decode(frame.type, frame.fields)
        except UnreadableFields as error:
            raise RemoteProtocolError(f"a node's answer: {error}") from error
        match message:
            case Welcome():
                if not message.capabilities & Capability.LINKS:
                    raise RemoteProtocolError("this server takes no links")
            case Error():
                self.has_no_credentials = message.code == Code.BAD_CREDENTIALS
                raise RemoteProtocolError(f"the node refuses: {message.text}")
            case LinkAnswer():
                assert self.on_link is not None
                self.on_link(self, message, now)
            case _:
                pass  # AUTHENTICATE's answer, PING


async def connect(address: str, timeout_s: float) -> socket.socket:
    """Return a connected socket.

    Raises:
        DialFailed: nobody answers in time.
    """
    host, _, port = address.rpartition(":")
    problem = "no answer in time"
    with trio.move_on_after(timeout_s):
        try:
            found = await trio.socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM
            )
        except (OSError, ValueError) as error:
            raise DialFailed(f"{address}: {error}") from None
        for family, kind, protocol, _, where in found:
            sock = socket.socket(family, kind, protocol)
            try:
                configure_socket(sock)
                if sock.connect_ex(where) not in (0, errno.EINPROGRESS):
                    raise OSError("cannot connect")
                await trio.lowlevel.wait_writable(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, "refused")
                return sock
            except OSError as error:
                sock.close()
                problem = str(error)
            except BaseException:
                sock.close()
                raise
    raise DialFailed(f"{address}: {problem}")


async def connect_tls(address: str, context: ssl.SSLContext, timeout_s: float) -> TlsSocket:
    """Return a socket whose TLS is ready, to whom has a certificate for that host.

    Raises:
        DialFailed: nobody answers in time, or it is not who it should be.
    """
    raw = await connect(address, timeout_s)
    problem = "no TLS in time"
    try:
        tls = TlsSocket(raw, context, server_hostname=address.rpartition(":")[0].strip("[]"))
        with trio.move_on_after(timeout_s):
            await shake_hands(tls)
            return tls
    except ssl.SSLCertVerificationError as error:
        problem = f"its certificate: {error.verify_message}"
    except ssl.SSLError as error:
        problem = f"no TLS: {error.reason}"
    except OSError as error:
        problem = str(error)
    except BaseException:
        raw.close()
        raise
    raw.close()
    raise DialFailed(f"{address}: {problem}")


def open_dialed(
    sock: ByteSocket,
    manager: RoomManager,
    readiness: ReadinessLoop[Arrival],
    me: NodeInfo,
    proof: bytes,
    on_link: Callable[[Session, LinkAnswer, float], None],
) -> TcpConnection:
    """Make a connection that says who we are; run it to go on."""
    connection = TcpConnection(sock, "", manager, readiness, make_session=DialedSession)
    session = connection.session
    assert isinstance(session, DialedSession)
    session.on_link = on_link
    session.greeted = True
    session.decoder.max_frame_bytes = manager.node.limits.max_frame_bytes
    now = trio.current_time()
    for number, message in enumerate(
        (
            Hello(
                magic=MAGIC,
                min_version=VERSION,
                max_version=VERSION,
                capabilities=Capability.LINKS,
                agent=AGENT,
            ),
            Authenticate(method=AuthMethod.NODE, account=me.name, secret=proof, device=""),
            Link(node=me.name, incarnation=me.incarnation),
        ),
        1,
    ):
        # A new connection has room for so little, so nothing has to wait.
        session.outbox.put_control(encode(message, number), now)
    return connection
