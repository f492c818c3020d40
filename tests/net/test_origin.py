"""Which names and pages a web port answers to."""

import pytest

from tim_trio.net.origin import OriginPolicy, host_name, is_of_a_page

ANY = OriginPolicy()
LISTED = OriginPolicy(frozenset({"stream.example.org", "10.0.0.7"}))


@pytest.mark.parametrize(
    "host, name",
    [
        ("localhost", "localhost"),
        ("LocalHost:7680", "localhost"),
        ("example.org.", "example.org"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:7680", "::1"),
        ("[::1]", "::1"),
        ("", None),
        ("::1", None),
        ("a:b", None),
        ("a:1:2", None),
        ("a b", None),
        ("user@localhost", None),
        ("localhost:123456", None),
        ("localhost/", None),
        ("<script>", None),
        ("ex\u00e4mple.org", None),
    ],
)
def test_names_in_a_host_header(host: str, name: str | None) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    "host, ours",
    [
        ("localhost", True),
        ("localhost:7680", True),
        ("tim.localhost:7680", True),
        ("127.0.0.1:7680", True),
        ("127.1.2.3", True),
        ("[::1]:7680", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("evil-localhost", False),
        ("192.168.1.5", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
def test_only_loopback_names_lead_to_a_loopback_address(host: str, ours: bool) -> None:
    """A hostile name may resolve to it as well (DNS rebinding)."""
    assert ANY.is_our_name(host, is_loopback=True) is ours


def test_beyond_loopback_any_name_is_ours_unless_some_are_listed() -> None:
    assert ANY.is_our_name("stream.example.org:443", is_loopback=False)
    assert not ANY.is_our_name("not a name", is_loopback=False)
    assert LISTED.is_our_name("Stream.Example.Org:443", is_loopback=False)
    assert LISTED.is_our_name("10.0.0.7", is_loopback=False)
    assert not LISTED.is_our_name("evil.example", is_loopback=False)
    assert not LISTED.is_our_name("localhost", is_loopback=False)


def test_a_listed_name_is_ours_behind_a_proxy_on_this_machine() -> None:
    assert LISTED.is_our_name("stream.example.org", is_loopback=True)
    assert LISTED.is_our_name("localhost", is_loopback=True)
    assert not LISTED.is_our_name("evil.example", is_loopback=True)


@pytest.mark.parametrize(
    "origin, host, may",
    [
        (None, "localhost:7680", True),
        ("http://localhost:7680", "localhost:7680", True),
        ("http://LOCALHOST:7680", "localhost:7680", True),
        ("https://example.org", "example.org", True),
        ("https://example.org", "example.org:443", True),
        ("https://example.org:443", "example.org", True),
        ("http://[::1]:7680", "[::1]:7680", True),
        ("http://localhost:8000", "localhost:7680", False),
        ("http://127.0.0.1:7680", "localhost:7680", False),
        ("https://evil.example", "localhost:7680", False),
        ("https://evil.example", "example.org", False),
        ("null", "localhost:7680", False),
        ("", "localhost:7680", False),
        ("localhost:7680", "localhost:7680", False),
        ("file://", "localhost:7680", False),
        ("http://user@localhost:7680", "localhost:7680", False),
        ("http://[::1", "localhost:7680", False),
        ("chrome-extension://abcdef", "abcdef", False),
    ],
)
def test_our_own_pages_may_connect(origin: str | None, host: str, may: bool) -> None:
    assert ANY.may_connect(origin, host) is may


def test_listed_pages_may_connect() -> None:
    policy = OriginPolicy(origins=frozenset({"https://friend.example", "null"}))
    assert policy.may_connect("https://Friend.example", "localhost")
    assert policy.may_connect("null", "localhost")
    assert policy.may_connect("http://localhost", "localhost")
    assert not policy.may_connect("http://friend.example", "localhost")
    assert OriginPolicy(origins=frozenset({"*"})).may_connect("https://any.example", "localhost")


@pytest.mark.parametrize(
    "origin, expected",
    [
        ("https://github.com/donnie4w/tim", False),
        ("http://a:80/", False),
        ("HTTPS://a/b", False),
        ("https://github.com", True),
        ("http://localhost:7680", True),
        ("null", True),
        ("null/", True),
        ("", True),
        ("file:///home/x", True),
        ("chrome-extension://abc/x", True),
    ],
)
def test_an_origin_with_a_path_is_no_page_s(origin: str, expected: bool) -> None:
    assert is_of_a_page(origin) is expected
