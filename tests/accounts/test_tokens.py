"""Signed tokens: what is taken, what is not, and keys that change."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from tim_trio.accounts import tokens
from tim_trio.accounts.tokens import (
    KeyFile,
    KeyFileError,
    TokenAuthenticator,
    TokenError,
    TokenKey,
    check_token,
    checking_key,
    claims_for,
    make_token,
    read_key,
    unchecked_claims,
)
from tim_trio.core.revocation import Identity, Revocation
from tim_trio.errors import Code, RoomError
from tim_trio.limits import Limits
from tim_trio.protocol.messages import (
    Authenticate,
    AuthMethod,
    AuthMode,
    ChangePassword,
    RegisterAccount,
    Right,
)
from tim_trio.protocol.room_ids import parse_room_id

SECRET = b"0123456789abcdef0123456789abcdef"
KEY = TokenKey(SECRET, ("HS256",), can_sign=True)
ROOM, OTHER = "LJ6TN2wdrZF", "21111111111"
BOTH = Right.REGISTER_ROOMS | Right.OPERATOR


def private_pem(key: Any, password: bytes | None = None) -> bytes:
    lock = BestAvailableEncryption(password) if password else NoEncryption()
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)
    return pem


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def token(claims: dict[str, object] | None = None, **changes: object) -> bytes:
    """Return a token of alice's; a claim that is None is left out."""
    all_claims = {"sub": "alice", "exp": int(time.time()) + 60, **(claims or {}), **changes}
    return make_token(KEY, {k: v for k, v in all_claims.items() if v is not None}).encode()


def complaint(data: bytes, key: TokenKey = KEY, audience: str = "") -> str:
    with pytest.raises(TokenError) as caught:
        check_token(data, key, audience=audience)
    return str(caught.value)


# Claims


def test_sub_and_exp_are_enough() -> None:
    exp = int(time.time()) + 60
    assert check_token(token(exp=exp), KEY) == Identity(
        account="alice", rights=Right.REGISTER_ROOMS, expires_at=exp + tokens.LEEWAY_S
    )


@pytest.mark.parametrize(
    "claim, rights, push, subscribe",
    [
        ({}, Right.REGISTER_ROOMS, None, None),
        ({"operator": True}, BOTH, None, None),
        ({"register": False}, Right(0), None, None),
        ({"push": []}, Right(0), set(), None),
        ({"push": [ROOM], "register": True}, Right.REGISTER_ROOMS, {ROOM}, None),
        ({"subscribe": [ROOM, OTHER]}, Right.REGISTER_ROOMS, None, {ROOM, OTHER}),
        ({"push": None, "subscribe": None}, Right.REGISTER_ROOMS, None, None),
    ],
)
def test_the_claim_that_narrows(
    claim: dict[str, object], rights: Right, push: set[str] | None, subscribe: set[str] | None
) -> None:
    identity = check_token(token(tim=claim), KEY)
    assert identity.rights == rights
    for rooms, expected in ((identity.push_rooms, push), (identity.subscribe_rooms, subscribe)):
        assert rooms == (None if expected is None else {parse_room_id(room) for room in expected})


@pytest.mark.parametrize(
    "claim, text",
    [
        ([], "not an object"),
        ({"Push": [ROOM]}, "not known here"),
        ({"push": ROOM}, "tim.push is not a list of room ids"),
        ({"push": ["x"]}, "tim.push is not a list"),
        ({"subscribe": [1]}, "tim.subscribe is not a list"),
        ({"operator": 1}, "tim.operator is neither"),
        ({"register": "no"}, "tim.register is neither"),
    ],
)
def test_a_claim_that_is_not_understood_gives_nothing(claim: object, text: str) -> None:
    assert text in complaint(token(tim=claim))


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"exp": None}, "lacks the claim exp"),
        ({"sub": None}, "lacks the claim sub"),
        ({"exp": 1}, "has expired"),
        ({"exp": "soon"}, "not a token"),
        ({"exp": float("inf")}, "not a token"),
        ({"nbf": 2**40}, "not a token"),
        ({"sub": "a b"}, "not an account name"),
        ({"sub": ""}, "not an account name"),
        ({"aud": "elsewhere"}, "another audience"),
    ],
)
def test_what_is_not_valid_says_why(changes: dict[str, object], text: str) -> None:
    assert text in complaint(token(changes))


def test_a_little_late_is_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    late = int(time.time()) - int(tokens.LEEWAY_S) + 2
    identity = check_token(token(exp=late), KEY)
    assert identity.expires_at is not None
    assert identity.expires_at > time.time()
    assert "has expired" in complaint(token(exp=int(time.time()) - int(tokens.LEEWAY_S) - 1))


def test_an_audience_that_is_asked_for_must_be_there() -> None:
    check_token(token(aud="tim"), KEY, audience="tim")
    check_token(token(aud=["x", "tim"]), KEY, audience="tim")
    assert "lacks the claim aud" in complaint(token(), audience="tim")
    assert "another audience" in complaint(token(aud="x"), audience="tim")


# Signatures


def forged(header: dict[str, object], payload: dict[str, object], signature: bytes = b"") -> bytes:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


CLAIMS: dict[str, object] = {"sub": "alice", "exp": 2**33}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"...",
        b"\xff\xfe",
        forged({"alg": "none"}, CLAIMS),
        forged({"alg": "HS256"}, CLAIMS),
        forged({"alg": ["HS256"]}, CLAIMS),
        forged({}, CLAIMS),
        jwt.encode(CLAIMS, SECRET[::-1], "HS256").encode(),
        jwt.encode(CLAIMS, SECRET * 2, "HS512").encode(),
        base64.urlsafe_b64encode(b"[" * 3000) + b".e30.x",
    ],
)
def test_what_is_not_signed_with_the_key_and_its_algorithm(data: bytes) -> None:
    assert complaint(data) == "not a token signed for this server"


@given(st.binary(max_size=4096))
def test_any_bytes_are_a_token_error(data: bytes) -> None:
    complaint(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ),
    st.sampled_from(["sub", "exp", "nbf", "iat", "aud", "tim", "jti"]),
)
def test_any_signed_claims_are_an_identity_or_a_token_error(value: object, name: str) -> None:
    try:
        data = make_token(KEY, {"sub": "alice", "exp": 2**33, name: value}).encode()
    except (TypeError, ValueError, UnicodeError):
        return  # no library would sign that
    try:
        identity = check_token(data, KEY)
    except TokenError:
        return
    assert identity.expires_ms > 0


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize(
    "key, algorithms",
    [
        (RSA, ["RS256", "RS512", "PS256"]),
        (ec.generate_private_key(ec.SECP256R1()), ["ES256"]),
        (ec.generate_private_key(ec.SECP384R1()), ["ES384"]),
        (ec.generate_private_key(ec.SECP521R1()), ["ES512"]),
        (ed25519.Ed25519PrivateKey.generate(), ["EdDSA"]),
        (ed448.Ed448PrivateKey.generate(), ["EdDSA"]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else value[0],
)
def test_the_key_decides_the_algorithms(tmp_path: Path, key: Any, algorithms: list[str]) -> None:
    (tmp_path / "private.pem").write_bytes(private_pem(key))
    (tmp_path / "public.pem").write_bytes(public_pem(key))
    private, public = read_key(tmp_path / "private.pem"), read_key(tmp_path / "public.pem")
    assert (private.can_sign, public.can_sign) == (True, False)
    assert public.algorithms == private.algorithms
    for algorithm in algorithms:
        assert algorithm in public.algorithms
        signed = jwt.encode(CLAIMS, key, algorithm).encode()
        assert check_token(signed, public).account == "alice"
        assert check_token(signed, checking_key(private)).account == "alice"
    assert check_token(make_token(private, CLAIMS).encode(), public).account == "alice"
    with pytest.raises(KeyFileError, match="makes no tokens"):
        make_token(public, CLAIMS)
    # The public key, which anyone has, as if it were an HMAC secret.
    confused = jwt.api_jws.PyJWS().encode(json.dumps(CLAIMS).encode(), b"x" * 32, "HS256")
    assert complaint(confused.encode(), public) == "not a token signed for this server"
    with pytest.raises(TokenError):
        check_token(token(), public)
    assert "PRIVATE" not in repr(private) and "key=" not in repr(private)


# Key files


@pytest.mark.parametrize(
    "data, text",
    [
        (b"short", "holds 5 bytes; a secret needs at least 32"),
        (b"", "holds 0 bytes"),
        (b"x" * 70_000, "too large"),
        (b"-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----\n", "not a PEM key"),
        (private_pem(RSA, b"locked"), "not a PEM key, or is encrypted"),
        (public_pem(rsa.generate_private_key(65537, 1024)), "at least 2048 bits"),
        (public_pem(ec.generate_private_key(ec.SECP256K1())), "the curve secp256k1"),
        (public_pem(dsa.generate_private_key(2048)), "does not sign tokens"),
    ],
    ids=["short", "empty", "large", "nonsense", "locked", "small", "curve", "dsa"],
)
def test_a_key_file_that_cannot_be_used_is_one_line(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(data)
    with pytest.raises(KeyFileError, match=text) as caught:
        read_key(path)
    assert "\n" not in str(caught.value)


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        read_key(tmp_path / "key")


def test_a_secret_ends_before_the_line_end(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(SECRET + b"\n")
    assert check_token(token(), read_key(path)).account == "alice"
    assert SECRET.decode() not in repr(read_key(path))


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(SECRET)
    key_file = KeyFile(path)
    assert not key_file.reload()
    new = tmp_path / "new"
    new.write_bytes(SECRET[::-1])
    os.replace(new, path)
    assert key_file.reload()
    assert key_file.key.key == SECRET[::-1]
    path.unlink()
    with pytest.raises(KeyFileError):
        key_file.reload()
    assert not key_file.reload()  # said once
    assert key_file.key.key == SECRET[::-1]
    path.write_bytes(SECRET)
    assert key_file.reload()
    assert key_file.key.key == SECRET


# Signing in


def by_token(
    secret: bytes, account: str = "", method: AuthMethod = AuthMethod.SIGNED_TOKEN
) -> Authenticate:
    return Authenticate(method=method, account=account, secret=secret, device="phone")


@pytest.fixture
def key_path(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(SECRET)
    return path


async def refusal(
    authenticator: TokenAuthenticator, request: Authenticate, address: str = "192.0.2.7"
) -> Code:
    with pytest.raises(RoomError) as caught:
        await authenticator.authenticate(request, address=address, is_loopback=True)
    return Code(caught.value.code)


async def test_a_token_signs_in(key_path: Path) -> None:
    authenticator = TokenAuthenticator(KeyFile(key_path), Limits())
    assert authenticator.mode is AuthMode.TOKEN
    for account in ("", "alice"):
        identity = await authenticator.authenticate(
            by_token(token(), account), address="::1", is_loopback=True
        )
        # From loopback too nobody is an operator whom the token does not name one.
        assert (identity.account, identity.device, identity.rights) == (
            "alice",
            "phone",
            Right.REGISTER_ROOMS,
        )
    assert await refusal(authenticator, by_token(token(), "bob")) is Code.BAD_CREDENTIALS
    assert await refusal(authenticator, by_token(b"x")) is Code.BAD_CREDENTIALS
    for method in set(AuthMethod) - {AuthMethod.SIGNED_TOKEN}:
        request = by_token(token(), "alice", method)
        assert await refusal(authenticator, request) is Code.NOT_SUPPORTED


async def test_failures_alone_count_against_an_address(key_path: Path) -> None:
    limits = Limits(logins_per_minute_per_address=2)
    authenticator = TokenAuthenticator(KeyFile(key_path), limits)
    for _ in range(5):
        await authenticator.authenticate(by_token(token()), address="192.0.2.7", is_loopback=False)
    for _ in range(2):
        assert await refusal(authenticator, by_token(b"x")) is Code.BAD_CREDENTIALS
    assert await refusal(authenticator, by_token(token())) is Code.RATE_LIMITED
    assert await refusal(authenticator, by_token(b"x"), "192.0.2.8") is Code.BAD_CREDENTIALS


async def test_accounts_are_somebody_elses(key_path: Path) -> None:
    authenticator = TokenAuthenticator(KeyFile(key_path), Limits())
    identity = check_token(token(), KEY)
    acts: list[Callable[[], Any]] = [
        lambda: authenticator.register(
            RegisterAccount(account="bob", password=b"", invitation=b""), address="::1"
        ),
        lambda: authenticator.change_password(
            identity, ChangePassword(old=b"", new=b""), address="::1"
        ),
    ]
    for act in acts:
        with pytest.raises(RoomError) as caught:
            await act()
        assert caught.value.code == Code.NOT_SUPPORTED


async def test_a_running_server_follows_the_key_file(
    key_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_POLL_INTERVAL_S", 0.01)
    authenticator = TokenAuthenticator(KeyFile(key_path), Limits())
    revoked: list[Revocation] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(authenticator.run, revoked.append)
        key_path.write_bytes(b"short")  # noqa: ASYNC240
        await trio.sleep(0.05)
        await authenticator.authenticate(by_token(token()), address="::1", is_loopback=False)
        key_path.write_bytes(SECRET[::-1])  # noqa: ASYNC240
        other = jwt.encode(CLAIMS, SECRET[::-1], "HS256").encode()
        with trio.fail_after(30):
            while True:
                try:
                    await authenticator.authenticate(
                        by_token(other), address="::1", is_loopback=False
                    )
                    break
                except RoomError:
                    await trio.sleep(0.02)
        assert await refusal(authenticator, by_token(token())) is Code.BAD_CREDENTIALS
        nursery.cancel_scope.cancel()
    assert revoked == []


# For the command line


def test_claims_come_out_as_they_went_in() -> None:
    claims = claims_for(
        "alice",
        lifetime_s=60,
        push=frozenset({ROOM}),
        subscribe=frozenset({OTHER}),
        register=True,
        operator=True,
        audience="tim",
    )
    identity = check_token(make_token(KEY, claims).encode(), KEY, audience="tim")
    assert identity.rights == BOTH
    assert identity.push_rooms == frozenset({parse_room_id(ROOM)})
    assert identity.subscribe_rooms == frozenset({parse_room_id(OTHER)})
    assert set(claims_for("alice", lifetime_s=60)) == {"sub", "exp"}


def test_what_an_unchecked_token_says() -> None:
    assert json.loads(unchecked_claims(token()))["sub"] == "alice"
    assert unchecked_claims(b"nonsense") == ""
