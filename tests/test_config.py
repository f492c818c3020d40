import tomllib
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tim_trio.config import (
    Address,
    ConfigError,
    ServerConfig,
    load_config,
    render_config,
    render_defaults,
)
from tim_trio.errors import TimError
from tim_trio.limits import Limits


def load(
    text: str | None = None,
    *,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    tmp_path: Path | None = None,
) -> ServerConfig:
    file = None
    if text is not None:
        assert tmp_path is not None
        file = tmp_path / "tim.toml"
        file.write_text(text, encoding="utf-8")
    return load_config(file=file, env=env or {}, overrides=overrides or {})


def complaint(
    text: str | None = None,
    *,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    tmp_path: Path | None = None,
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, env=env, overrides=overrides, tmp_path=tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(tmp_path), "DIR")


# Sources and their order


def test_without_sources_everything_is_the_default() -> None:
    config = load()
    assert config == ServerConfig()
    assert config.limits == Limits()
    assert [str(address) for address in config.tcp] == ["127.0.0.1:7600"]


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    text = 'node_name = "file"\nlog_level = "debug"\ndrain_timeout_s = 1\n'
    env = {"TIM_TRIO_NODE_NAME": "env", "TIM_TRIO_LOG_LEVEL": "warning"}
    config = load(text, env=env, overrides={"node_name": "flag"}, tmp_path=tmp_path)
    assert config.node_name == "flag"
    assert config.log_level == "warning"
    assert config.drain_timeout_s == 1.0
    assert config.log_format == "auto"


def test_limits_from_every_source(tmp_path: Path) -> None:
    config = load(
        "[limits]\nmax_rooms = 5\nidle_timeout_s = 7\n",
        env={"TIM_TRIO_LIMITS_MAX_GRANTS_PER_ROOM": "6"},
        overrides={"limits": {"max_connections": 8}, "limits.max_unauthenticated": "9"},
        tmp_path=tmp_path,
    )
    assert config.limits == Limits(
        max_rooms=5,
        idle_timeout_s=7.0,
        max_grants_per_room=6,
        max_connections=8,
        max_unauthenticated=9,
    )
    assert type(config.limits.idle_timeout_s) is float


def test_flags_that_were_not_given_count_for_nothing() -> None:
    assert load(overrides={"tcp": (), "log_level": None}) == ServerConfig()


def test_empty_variables_and_those_of_others_count_for_nothing() -> None:
    env = {"TIM_TRIO_TCP": "", "TIM_TRIO_SERVER": "tim://x:1", "TIM_TRIO_ACCOUNT": "a", "HOME": "/"}
    assert load(env=env) == ServerConfig()


def test_the_file_can_be_named_by_a_variable(tmp_path: Path) -> None:
    named, given_by_flag = tmp_path / "a.toml", tmp_path / "b.toml"
    named.write_text('node_name = "a"')
    given_by_flag.write_text('node_name = "b"')
    env = {"TIM_TRIO_CONFIG": str(named)}
    assert load_config(file=None, env=env, overrides={}).node_name == "a"
    assert load_config(file=given_by_flag, env=env, overrides={}).node_name == "b"


def test_an_empty_section_is_fine(tmp_path: Path) -> None:
    assert load("[limits]\n", tmp_path=tmp_path) == ServerConfig()


# Misspelt keys


@pytest.mark.parametrize(
    "text, expected",
    [
        ("tpc = []", 'unknown key "tpc" in DIR/tim.toml; did you mean "tcp"?'),
        (
            "[limits]\nmax_roms = 3",
            'unknown key "limits.max_roms" in DIR/tim.toml; did you mean "limits.max_rooms"?',
        ),
        # In the wrong section, or in a misspelt one.
        (
            "max_rooms = 3",
            'unknown key "max_rooms" in DIR/tim.toml; did you mean "limits.max_rooms"?',
        ),
        (
            "max_roms = 3",
            'unknown key "max_roms" in DIR/tim.toml; did you mean "limits.max_rooms"?',
        ),
        (
            "[limit]\nmax_rooms = 3",
            'unknown key "limit.max_rooms" in DIR/tim.toml; did you mean "limits.max_rooms"?',
        ),
        (
            '[limits]\nnode_name = "a"',
            'unknown key "limits.node_name" in DIR/tim.toml; did you mean "node_name"?',
        ),
        ("[zzz]", 'unknown key "zzz" in DIR/tim.toml; `tim_trio config` lists all'),
    ],
)
def test_unknown_key_in_the_file(text: str, expected: str, tmp_path: Path) -> None:
    assert complaint(text, tmp_path=tmp_path) == expected


def test_unknown_variable() -> None:
    assert complaint(env={"TIM_TRIO_TPC": "x"}) == (
        'unknown environment variable TIM_TRIO_TPC; did you mean "TIM_TRIO_TCP"?'
    )
    assert complaint(env={"TIM_TRIO_LIMITS_MAX_ROMS": ""}) == (
        "unknown environment variable TIM_TRIO_LIMITS_MAX_ROMS; "
        'did you mean "TIM_TRIO_LIMITS_MAX_ROOMS"?'
    )
    assert complaint(env={"TIM_TRIO_QQQQQQQQQQQQQ": "x"}) == (
        "unknown environment variable TIM_TRIO_QQQQQQQQQQQQQ"
    )


def test_unknown_flag() -> None:
    assert complaint(overrides={"limits.max_roms": None}) == (
        'unknown key "limits.max_roms" on the command line; did you mean "limits.max_rooms"?'
    )


# Values that cannot be


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "[limits]\nmax_rooms = 0",
            "limits.max_rooms must be at least 1 rooms, not 0",
        ),
        (
            "[limits]\nmax_frame_bytes = 4095",
            "limits.max_frame_bytes must be at least 4096 bytes, not 4095",
        ),
        (
            "[limits]\nmax_subscriptions = 65536",
            "limits.max_subscriptions must be at most 65535 subscriptions, not 65536",
        ),
        ("drain_timeout_s = -1", "drain_timeout_s must be at least 0.0 seconds, not -1"),
        ("drain_timeout_s = nan", "drain_timeout_s must be a number of seconds, not NaN"),
        ("drain_timeout_s = true", "drain_timeout_s must be a number of seconds, not true"),
        (
            "[limits]\nidle_timeout_s = inf",
            "limits.idle_timeout_s must be a number of seconds, not Infinity",
        ),
        (
            '[limits]\nmax_rooms = "3"',
            'limits.max_rooms must be a whole number of rooms, not "3"',
        ),
        (
            "[limits]\nmax_rooms = 1979-05-27",
            'limits.max_rooms must be a whole number of rooms, not "1979-05-27"',
        ),
        ("insecure_open = 1", "insecure_open must be true or false, not 1"),
        ('auth = "none"', 'auth must be "open", "accounts" or "token", not "none"'),
        ('log_level = "all"', 'log_level must be "debug", "info", "warning" or "error", not "all"'),
        (
            'node_name = "a b"',
            'node_name must be 1 to 64 letters, digits, dots, dashes or underscores, not "a b"',
        ),
        (
            "node_name = 1",
            "node_name must be 1 to 64 letters, digits, dots, dashes or underscores, not 1",
        ),
        ("tcp = [7600]", "tcp must be a list of HOST:PORT"),
        ("tcp = 7600", "tcp must be a list of HOST:PORT"),
        ('tcp = ["localhost"]', 'tcp: "localhost" is not HOST:PORT'),
        ("limits = 1", "limits is a table: write [limits]"),
    ],
)
def test_bad_value_in_the_file(text: str, expected: str, tmp_path: Path) -> None:
    assert complaint(text, tmp_path=tmp_path) == f"{expected} (in DIR/tim.toml)"


def test_bad_value_in_the_environment() -> None:
    assert complaint(env={"TIM_TRIO_LIMITS_MAX_ROOMS": "many"}) == (
        'limits.max_rooms must be a whole number of rooms, not "many" '
        "(from TIM_TRIO_LIMITS_MAX_ROOMS)"
    )
    assert complaint(env={"TIM_TRIO_INSECURE_OPEN": "perhaps"}) == (
        'insecure_open must be true or false, not "perhaps" (from TIM_TRIO_INSECURE_OPEN)'
    )


def test_bad_value_on_the_command_line() -> None:
    assert complaint(overrides={"tcp": ("localhost:99999",)}) == (
        'tcp: "localhost:99999": a port is at most 65535 (on the command line)'
    )
    assert complaint(overrides={"limits.max_rooms": True}) == (
        "limits.max_rooms must be a whole number of rooms, not true (on the command line)"
    )


def test_a_bad_value_is_an_error_even_where_a_stronger_source_replaces_it(tmp_path: Path) -> None:
    assert complaint("node_name = 1", overrides={"node_name": "x"}, tmp_path=tmp_path)


def test_frames_must_fit_the_backlog(tmp_path: Path) -> None:
    assert complaint("[limits]\nbacklog_bytes = 500_000", tmp_path=tmp_path) == (
        "limits.max_frame_bytes (1048576) must be at most backlog_bytes (500000)"
    )


def test_there_must_be_something_to_listen_on(tmp_path: Path) -> None:
    assert complaint("tcp = []\nweb = []", tmp_path=tmp_path) == (
        "tcp, tls, web and web_tls are empty: there is nothing to listen on"
    )
    text = 'tcp = []\ntls = ["127.0.0.1:0"]\ntls_cert = "c"\ntls_key = "k"'
    assert load(text, tmp_path=tmp_path).tcp == ()
    overrides = {"tcp": "", "tls": "127.0.0.1:0", "tls_cert": "c", "tls_key": "k"}
    assert load(overrides=overrides).tcp == ()


@pytest.mark.parametrize("given, missing", [("key", "cert"), ("cert", "key")])
def test_tls_needs_a_certificate_and_its_key(given: str, missing: str) -> None:
    overrides = {"tls": ["127.0.0.1:0"], f"tls_{given}": "file"}
    assert complaint(overrides=overrides) == (
        f"tls_{missing}: listening with TLS needs a certificate and its key"
    )


# Files that cannot be


def test_unreadable_files(tmp_path: Path) -> None:
    assert complaint(env={"TIM_TRIO_CONFIG": str(tmp_path / "none")}, tmp_path=tmp_path) == (
        "cannot read DIR/none: No such file or directory"
    )
    assert complaint("a = ", tmp_path=tmp_path).startswith("DIR/tim.toml is not valid TOML: ")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert complaint(env={"TIM_TRIO_CONFIG": str(binary)}, tmp_path=tmp_path) == (
        "DIR/binary is not UTF-8 text"
    )


def test_the_error_is_one_of_ours() -> None:
    assert issubclass(ConfigError, TimError)


# Addresses, and open auth


@pytest.mark.parametrize(
    "text, host, port",
    [
        ("127.0.0.1:7600", "127.0.0.1", 7600),
        ("localhost:0", "localhost", 0),
        ("[::1]:7600", "::1", 7600),
        ("[::]:65535", "::", 65535),
        (" relay-1.example.org:1 ", "relay-1.example.org", 1),
    ],
)
def test_address(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert address == Address(host, port)
    assert str(address) == text.strip()


@pytest.mark.parametrize(
    "text",
    ["", "localhost", "7600", ":7600", "a:", "a:b", "a:-1", "a:+1", "a:1_0", "a:65536", "a:999999",
     "::1:7600", "[a]:1", "[]:1", "[1.2.3.4]:1", "a b:1", "a\n:1", "a:\u0661", "é:1"],
)  # fmt: skip
def test_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        Address.parse(text.replace("\n", "\t"))


def test_several_addresses() -> None:
    expected = (Address("127.0.0.1", 1), Address("::1", 2))
    assert load(env={"TIM_TRIO_TCP": "127.0.0.1:1, [::1]:2"}).tcp == expected
    assert load(overrides={"tcp": ("127.0.0.1:1", "[::1]:2")}).tcp == expected
    assert load(overrides={"tcp": list(expected)}).tcp == expected


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"])
def test_open_auth_listens_on_loopback(address: str) -> None:
    assert load(overrides={"tcp": address}).tcp[0].is_loopback


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "example.org:1"])
def test_open_auth_beyond_loopback_must_be_meant(address: str) -> None:
    overrides = {"tcp": ["127.0.0.1:1", address]}
    assert complaint(overrides=overrides) == (
        f'tcp: {address} is not a loopback address, and auth = "open" lets anyone act '
        "under any name; set insecure_open = true if that is meant"
    )
    assert load(overrides=overrides, env={"TIM_TRIO_INSECURE_OPEN": "true"}).insecure_open


@pytest.mark.parametrize("auth", ["accounts", "token"])
def test_where_people_prove_who_they_are_any_address_will_do(auth: str) -> None:
    overrides = {"auth": auth, "tcp": ["0.0.0.0:1"], "token_key_file": "key"}
    assert load(overrides=overrides).auth == auth


def test_tokens_need_a_key() -> None:
    assert complaint(overrides={"auth": "token"}) == (
        'token_key_file: auth = "token" needs the file with the secret or the public key'
    )


@pytest.mark.parametrize(
    "url",
    ["postgresql://tim:hunter2@host/db", "postgresql://host/db?password=hunter2"],
)
def test_no_password_on_the_command_line(url: str, tmp_path: Path) -> None:
    said = complaint(overrides={"database_url": url})
    assert "hunter2" not in said
    assert "TIM_TRIO_DATABASE_URL" in said
    assert load(env={"TIM_TRIO_DATABASE_URL": url}).database_url == url
    assert load(f'database_url = "{url}"', tmp_path=tmp_path).database_url == url
    for harmless in ("sqlite:////var/lib/tim.db", "postgresql://tim@host:5432/db"):
        assert load(overrides={"database_url": harmless}).database_url == harmless


# The listing


def test_defaults_can_be_read_back(tmp_path: Path) -> None:
    assert load(render_defaults(), tmp_path=tmp_path) == ServerConfig()


def test_defaults_list_every_key_with_a_reason() -> None:
    text = render_defaults()
    document = tomllib.loads(text)
    bounds = document.pop("limits")
    assert list(bounds) == [field.name for field in attrs.fields(Limits)]
    assert [*document, "limits"] == [field.name for field in attrs.fields(ServerConfig)]
    lines = text.splitlines()
    for number, line in enumerate(lines):
        assert len(line) <= 80
        if "=" in line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), f"no reason given for {line}"


def test_bounds_are_listed() -> None:
    assert "# bytes, 4096 to 67_108_864: largest frame taken from a peer;" in render_defaults()


def test_a_number_says_its_unit() -> None:
    """In its name where it has a dimension, and in its description always."""
    for field in attrs.fields(Limits):
        assert field.metadata["unit"], field.name
        if field.metadata["unit"] == "bytes":
            assert field.name.endswith("_bytes")
        if field.metadata["unit"] == "seconds":
            assert field.name.endswith("_s")


@given(
    tcp=st.lists(st.sampled_from(["127.0.0.1:1", "[::1]:0", "localhost:9"]), min_size=1),
    node_name=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    drain_timeout_s=st.floats(0, 3600),
    max_rooms=st.integers(1, 10**12),
    level=st.sampled_from(["debug", "info", "warning", "error"]),
)
def test_any_configuration_can_be_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    tcp: list[str],
    node_name: str,
    drain_timeout_s: float,
    max_rooms: int,
    level: str,
) -> None:
    config = load(
        overrides={
            "tcp": tcp,
            "node_name": node_name,
            "drain_timeout_s": drain_timeout_s,
            "limits.max_rooms": max_rooms,
            "log_level": level,
        }
    )
    text = render_config(config)
    assert load(text, tmp_path=tmp_path_factory.mktemp("config")) == config


@given(
    st.dictionaries(
        st.text() | st.just("\n"), st.none() | st.booleans() | st.integers() | st.text()
    )
)
def test_any_overrides_give_a_configuration_or_one_line(values: dict[str, object]) -> None:
    message = ""
    try:
        load(overrides=values)
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message
