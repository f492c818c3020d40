"""``auth = "token"``: signed tokens (JWT) of the operator's own user system.

The key decides the algorithms, never the token: a public key that anybody
knows must not be taken for an HMAC secret.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import jwt
import trio
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)

from tim_trio.accounts.rates import MinuteRates
from tim_trio.core.addresses import network_of
from tim_trio.core.bans import Bans
from tim_trio.core.revocation import Identity, Revocation
from tim_trio.errors import Code, TimError, room_error
from tim_trio.limits import Limits
from tim_trio.log import get_logger
from tim_trio.protocol.messages import (
    Authenticate,
    AuthMethod,
    AuthMode,
    Capability,
    ChangePassword,
    RegisterAccount,
    Right,
    is_account_name,
)
from tim_trio.protocol.room_ids import parse_room_id

#: Clocks of two machines may differ by this much.
LEEWAY_S: Final = 5.0
#: What the claim with our own settings is called.
CLAIM: Final = "tim"
_MIN_SECRET_BYTES: Final = 32
_MIN_RSA_BITS: Final = 2048
_MAX_KEY_FILE_BYTES: Final = 64 * 1024
_POLL_INTERVAL_S: Final = 1.0
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_EC: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

_log = get_logger("accounts")


class KeyFileError(TimError):
    """A key file cannot be used; ``str()`` is one line for a person."""


class TokenError(TimError):
    """A token is not valid here; ``str()`` says why and quotes nothing of it."""


@attrs.frozen
class TokenKey:
    """What tokens are checked with, or made with, and by which algorithms.

    Attributes:
        algorithms: the first is the one to make tokens with.
    """

    key: Any = attrs.field(repr=False)
    algorithms: tuple[str, ...]
    can_sign: bool


def read_key(path: Path) -> TokenKey:
    """Read an HMAC secret of at least 32 bytes, or a key in PEM form. Blocks.

    White space around a secret does not count: editors end files with a line end.

    Raises:
        KeyFileError: the file cannot be read or holds no key that is strong enough.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_FILE_BYTES + 1).strip()
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror or error}") from None
    if len(data) > _MAX_KEY_FILE_BYTES:
        raise KeyFileError(f"{path} is no key: it is too large")
    if not data.startswith(b"-----BEGIN "):
        if len(data) < _MIN_SECRET_BYTES:
            raise KeyFileError(
                f"{path} holds {len(data)} bytes; a secret needs at least {_MIN_SECRET_BYTES}"
            )
        return TokenKey(data, ("HS256",), can_sign=True)
    can_sign = b"PRIVATE KEY-----" in data.split(b"\n", 1)[0]
    try:
        key = load_pem_private_key(data, None) if can_sign else load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's text may quote the key.
        raise KeyFileError(f"{path} is not a PEM key, or is encrypted") from None
    match key:
        case rsa.RSAPublicKey() | rsa.RSAPrivateKey():
            if key.key_size < _MIN_RSA_BITS:
                raise KeyFileError(f"{path}: an RSA key needs at least {_MIN_RSA_BITS} bits")
            algorithms: tuple[str, ...] = _RSA
        case ec.EllipticCurvePublicKey() | ec.EllipticCurvePrivateKey():
            if key.curve.name not in _EC:
                raise KeyFileError(f"{path}: the curve {key.curve.name} is not one of {[*_EC]}")
            algorithms = (_EC[key.curve.name],)
        case (
            ed25519.Ed25519PublicKey()
            | ed25519.Ed25519PrivateKey()
            | ed448.Ed448PublicKey()
            | ed448.Ed448PrivateKey()
        ):
            algorithms = ("EdDSA",)
        case _:
            raise KeyFileError(f"{path} holds a kind of key that does not sign tokens")
    return TokenKey(key, algorithms, can_sign=can_sign)


def checking_key(key: TokenKey) -> TokenKey:
    """Return what checks the tokens that ``key`` makes."""
    if isinstance(key.key, bytes) or not key.can_sign:
        return key
    return TokenKey(key.key.public_key(), key.algorithms, can_sign=False)


def make_token(key: TokenKey, claims: Mapping[str, object]) -> str:
    """Sign claims.

    Raises:
        KeyFileError: the key is a public one.
    """
    if not key.can_sign:
        raise KeyFileError("a public key makes no tokens: it takes the private one or the secret")
    return jwt.encode(dict(claims), key.key, key.algorithms[0])


def check_token(token: bytes, key: TokenKey, *, audience: str = "") -> Identity:
    """Return who a token says its bearer is.

    Does not block: microseconds, a tenth of a millisecond for the slow kinds.

    Raises:
        TokenError: it is not valid, or not for us.
    """
    try:
        claims = jwt.decode(
            token,
            key.key,
            algorithms=list(key.algorithms),
            audience=audience or None,
            leeway=LEEWAY_S,
            options={"require": ["exp", "sub", *(["aud"] if audience else [])]},
        )
    except jwt.ExpiredSignatureError:
        raise TokenError("the token has expired") from None
    except jwt.MissingRequiredClaimError as error:
        raise TokenError(f"the token lacks the claim {error.claim}") from None
    except jwt.InvalidAudienceError:
        raise TokenError("the token is for another audience") from None
    except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError):
        raise TokenError("not a token signed for this server") from None
    account = claims["sub"]
    if not isinstance(account, str) or not is_account_name(account):
        raise TokenError("the token's sub is not an account name")
    # A number: the library has looked.
    expires_at = float(int(claims["exp"])) + LEEWAY_S
    push, subscribe, rights = _read_claim(claims.get(CLAIM, {}))
    return Identity(
        account=account,
        rights=rights,
        expires_at=expires_at,
        push_rooms=push,
        subscribe_rooms=subscribe,
    )


def _read_claim(claim: object) -> tuple[frozenset[int] | None, frozenset[int] | None, Right]:
    if not isinstance(claim, dict):
        raise TokenError(f"the claim {CLAIM} is not an object")
    # A misspelt "subscribe" must not mean "anything".
    unknown = claim.keys() - {"push", "subscribe", "register", "operator"}
    if unknown:
        raise TokenError(f"the claim {CLAIM} has a member that is not known here")
    push = _read_rooms(claim, "push")
    subscribe = _read_rooms(claim, "subscribe")
    rights = Right(0)
    # Whoever names the rooms to push to hardly means "and any new one".
    if _read_flag(claim, "register", push is None):
        rights |= Right.REGISTER_ROOMS
    if _read_flag(claim, "operator", False):
        rights |= Right.OPERATOR
    return push, subscribe, rights


def _read_rooms(claim: dict[str, object], name: str) -> frozenset[int] | None:
    rooms = claim.get(name)
    if rooms is None:
        return None
    try:
        if isinstance(rooms, list):
            return frozenset(parse_room_id(room) for room in rooms)
    except (ValueError, TypeError):
        pass
    raise TokenError(f"{CLAIM}.{name} is not a list of room ids")


def _read_flag(claim: dict[str, object], name: str, default: bool) -> bool:
    flag = claim.get(name, default)
    if not isinstance(flag, bool):
        raise TokenError(f"{CLAIM}.{name} is neither true nor false")
    return flag


class KeyFile:
    """A key file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key = checking_key(read_key(path))
        self._seen = self._fingerprint()

    def _fingerprint(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def reload(self) -> bool:
        """Read the file if it has changed; say whether there is a new key. Blocks.

        Raises:
            KeyFileError: it holds no key now; the old one stays. Not again
                before the file changes once more.
        """
        found = self._fingerprint()
        if found == self._seen:
            return False
        # First what it looks like, then what is in it: a change in between is
        # seen the next time.
        self._seen = found
        self.key = checking_key(read_key(self.path))
        return True


class TokenAuthenticator:
    """Signs in who brings a token that is signed with the key.

    Args:
        audience: what ``aud`` must name; empty where tokens have none.
        clock: Unix time in seconds.
    """

    mode = AuthMode.TOKEN
    capabilities = Capability(0)

    def __init__(self, key_file: KeyFile, limits: Limits, *, audience: str = "") -> None:
        self._key_file = key_file
        self._audience = audience
        self.bans = Bans()
        self._failures = MinuteRates(
            limits.logins_per_minute_per_address, "logins_per_minute_per_address"
        )

    async def authenticate(
        self, request: Authenticate, *, address: str, is_loopback: bool
    ) -> Identity:
        if request.method is not AuthMethod.SIGNED_TOKEN:
            raise room_error(Code.NOT_SUPPORTED, "this server takes signed tokens")
        network, now = network_of(address), trio.current_time()
        self._failures.check(network, now)
        try:
            identity = check_token(request.secret, self._key_file.key, audience=self._audience)
        except TokenError as error:
            self._failures.take(network, now)
            raise room_error(Code.BAD_CREDENTIALS, str(error)) from None
        if request.account and request.account != identity.account:
            raise room_error(Code.BAD_CREDENTIALS, "the token is somebody else's")
        self.bans.check(identity.account)
        return attrs.evolve(identity, device=request.device)

    async def register(self, request: RegisterAccount, *, address: str) -> None:
        raise room_error(Code.NOT_SUPPORTED, "this server keeps no accounts")

    async def change_password(
        self, identity: Identity, request: ChangePassword, *, address: str
    ) -> None:
        raise room_error(Code.NOT_SUPPORTED, "this server keeps no accounts")

    async def ban(self, account: str) -> None:
        self.bans.add(account)

    async def run(self, revoke: Callable[[Revocation], None]) -> None:
        """Hand out bans, and follow the key file.

        Who is signed in stays so until the token's own end, whatever the key.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.bans.run, revoke)
            await self._follow_key_file()

    async def _follow_key_file(self) -> None:
        while True:
            await trio.sleep(_POLL_INTERVAL_S)
            try:
                if await trio.to_thread.run_sync(self._key_file.reload):
                    _log.info("token key read again", algorithms=self._key_file.key.algorithms)
            except KeyFileError as error:
                _log.error("token key not usable, the old one stays", reason=str(error))


def claims_for(
    account: str,
    *,
    lifetime_s: float,
    push: frozenset[str] | None = None,
    subscribe: frozenset[str] | None = None,
    register: bool | None = None,
    operator: bool = False,
    audience: str = "",
) -> dict[str, object]:
    """Return claims as `check_token` reads them; settings left out stay out."""
    ours: dict[str, object] = {}
    if push is not None:
        ours["push"] = sorted(push)
    if subscribe is not None:
        ours["subscribe"] = sorted(subscribe)
    if register is not None:
        ours["register"] = register
    if operator:
        ours["operator"] = True
    claims: dict[str, object] = {"sub": account, "exp": int(time.time() + lifetime_s)}
    if audience:
        claims["aud"] = audience
    if ours:
        claims[CLAIM] = ours
    return claims


def unchecked_claims(token: bytes) -> str:
    """Return what a token says, as JSON and whoever signed it; empty if it is none."""
    try:
        return json.dumps(jwt.decode(token, options={"verify_signature": False}), indent=2)
    except (jwt.PyJWTError, ValueError, RecursionError):
        return ""
