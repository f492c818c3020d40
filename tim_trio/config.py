"""The server's configuration: flags over environment over a TOML file over defaults.

Every key is a field of :class:`ServerConfig` or of :class:`~tim_trio.limits.Limits`
(section ``limits``). The loader, the environment's names, the error messages and
the listing of defaults are all made from those fields, so none can be forgotten
when a key is added.

Every value is checked where it is given, even where a stronger source replaces
it: a mistake in the file does not wait for the day the flag is left out.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import attrs
from pydantic import AfterValidator, Field, PlainValidator, TypeAdapter, ValidationError

from tim_trio.errors import TimError
from tim_trio.limits import Limits

ENV_PREFIX = "TIM_TRIO_"
CONFIG_VARIABLE = "TIM_TRIO_CONFIG"
# Read by the command line, not keys of the server.
_OTHER_VARIABLES = frozenset(
    {
        CONFIG_VARIABLE,
        "TIM_TRIO_WORKER",
        *("TIM_TRIO_SERVER", "TIM_TRIO_ACCOUNT", "TIM_TRIO_TLS_CA"),
        # Secrets: never anywhere but here and in files.
        *("TIM_TRIO_PASSWORD", "TIM_TRIO_TOKEN", "TIM_TRIO_INVITATION"),
    }
)

DEFAULT_PORT = 7600
DEFAULT_WEB_PORT = 7680

_PUBLIC_SCHEMES = ("tim", "tims", "ws", "wss")
_MAX_PUBLIC_BYTES = 255


class ConfigError(TimError):
    """The configuration cannot be used; ``str()`` is one line for a person."""


@attrs.frozen
class Address:
    """A host and a TCP port; ``str()`` gives ``HOST:PORT``, with brackets for IPv6."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``HOST:PORT`` or ``[IPV6]:PORT``.

        Raises:
            ValueError: with a message for a person.
        """
        host, colon, port_text = text.strip().rpartition(":")
        if not colon or not re.fullmatch(r"[0-9]{1,5}", port_text):
            raise ValueError(f'"{text}" is not HOST:PORT')
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            try:
                ipaddress.IPv6Address(host)
            except ValueError:
                raise ValueError(f'"{host}" in "{text}" is not an IPv6 address') from None
        elif ":" in host:
            raise ValueError(f'"{text}": write an IPv6 address in brackets, as in [::1]:7600')
        if not re.fullmatch(r"[A-Za-z0-9._:%-]+", host):
            raise ValueError(f'"{text}" names no host; 0.0.0.0 and [::] mean every interface')
        port = int(port_text)
        if port > 65535:
            raise ValueError(f'"{text}": a port is at most 65535')
        return cls(host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A name is never looked up."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def _parse_addresses(value: object) -> tuple[Address, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if value == [""]:
        value = ()
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list of HOST:PORT")
    addresses = []
    for item in value:
        if isinstance(item, Address):
            addresses.append(item)
        elif isinstance(item, str):
            addresses.append(Address.parse(item))
        else:
            raise ValueError("must be a list of HOST:PORT")
    return tuple(addresses)


def _parse_names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise ValueError("must be a list of names")
    return tuple(name.strip().lower() for name in value if name.strip())


def _parse_hosts(value: object) -> tuple[str, ...]:
    names = _parse_names(value)
    for name in names:
        if not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:.]+", name):
            raise ValueError(f'"{name}" is not a host name; write it without scheme and port')
    return names


def _parse_origins(value: object) -> tuple[str, ...]:
    origins = _parse_names(value)
    for origin in origins:
        if origin not in ("*", "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/]+", origin):
            raise ValueError(f'"{origin}" is not SCHEME://HOST or SCHEME://HOST:PORT')
    return origins


def _check_cluster(value: str) -> str:
    endpoints = value.partition("://")[2].split(",")
    if value and not re.fullmatch(r"etcds?://[^@/]+/?", value):
        raise ValueError("must be etcd://HOST:PORT or etcds://HOST:PORT, more of them after commas")
    for endpoint in endpoints if value else ():
        Address.parse(endpoint.rstrip("/"))
    return value


def _parse_public(value: object) -> tuple[str, ...]:
    addresses = _parse_names(value)
    if addresses == ("none",):
        return addresses
    for address in addresses:
        scheme, _, rest = address.partition("://")
        if scheme not in _PUBLIC_SCHEMES or len(address) > _MAX_PUBLIC_BYTES:
            raise ValueError(f'"{address}" is not tim://, tims://, ws:// or wss:// and HOST:PORT')
        if Address.parse(rest).port == 0:
            raise ValueError(f'"{address}": port 0 is no server\'s port')
    if len({address.partition("://")[0] for address in addresses}) < len(addresses):
        raise ValueError("one address of each scheme is all that clients are told of")
    return addresses


def _check_advertise(value: str) -> str:
    if value:
        Address.parse(value)
    return value


def _key(
    default: object,
    why: str,
    *,
    unit: str = "",
    form: str = "",
    least: float | None = None,
    most: float | None = None,
    is_secret: bool = False,
) -> Any:
    """Describe a key. ``form`` says what a value must look like, for error messages."""
    metadata = {"why": why, "unit": unit, "form": form, "least": least, "most": most}
    return attrs.field(default=default, metadata=metadata, repr=not is_secret)


@attrs.frozen(kw_only=True)
class ServerConfig:
    """What a server runs with. Made by :func:`load_config`, which checks it."""

    tcp: Annotated[tuple[Address, ...], PlainValidator(_parse_addresses)] = _key(
        (Address("127.0.0.1", DEFAULT_PORT),),
        "addresses to listen on, each HOST:PORT or [IPV6]:PORT; port 0 takes a free one; "
        "loopback by default, because open auth lets anyone in; may be empty",
    )
    tls: Annotated[tuple[Address, ...], PlainValidator(_parse_addresses)] = _key(
        (), "addresses to listen on with TLS (tims://), written likewise; none by default"
    )
    tls_cert: str = _key(
        "",
        "the file with the certificate for tls and web_tls, and the chain behind it, in PEM "
        "form; read again when it changes",
    )
    tls_key: str = _key(
        "", "the file with the certificate's private key, in PEM form, without a passphrase"
    )
    web: Annotated[tuple[Address, ...], PlainValidator(_parse_addresses)] = _key(
        (Address("127.0.0.1", DEFAULT_WEB_PORT),),
        "addresses of the page and of WebSocket, written as in tcp; empty for none",
    )
    web_tls: Annotated[tuple[Address, ...], PlainValidator(_parse_addresses)] = _key(
        (), "the same with TLS (https, wss); none by default"
    )
    web_hosts: Annotated[tuple[str, ...], PlainValidator(_parse_hosts)] = _key(
        (),
        "names that browsers may use for this server; empty for any, but on a loopback address "
        "always only localhost and its like beside these, so that no page elsewhere gets in "
        "by a name that leads here",
    )
    web_origins: Annotated[tuple[str, ...], PlainValidator(_parse_origins)] = _key(
        (),
        "whose pages may open a WebSocket here beside this server's own, each "
        'SCHEME://HOST:PORT; "*" for all',
    )
    metrics_token_file: str = _key(
        "",
        "the file with the bearer token that lets others than this machine read /metrics; "
        "without one nobody else may",
    )
    auth: Literal["open", "accounts", "token"] = _key(
        "open",
        'who may connect; "open" takes any account name without proof, "accounts" has '
        'passwords in a database of its own, "token" takes signed tokens (JWT) of yours',
    )
    insecure_open: bool = _key(
        False,
        "let auth = open listen beyond loopback: anyone who reaches the port may then "
        "act under any name",
    )
    database_url: str = _key(
        "",
        "the database, as sqlite:////PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME. "
        "accounts: where they are; empty is the SQLite file accounts.db in this user's data "
        "directory. Otherwise: where contacts and blocks are kept; empty is in memory. With a "
        "password in it, give it here or in the environment, not on the command line",
        is_secret=True,
    )
    registration: Literal["closed", "invitation", "open"] = _key(
        "closed",
        "accounts: who may make an account over the wire; `tim_trio account invite` "
        "prints invitations",
    )
    session_lifetime_s: float = _key(
        30 * 86400.0,
        "accounts: after its last use that a device can still come back without a password",
        unit="seconds",
        least=1.0,
        most=10 * 365 * 86400.0,
    )
    token_key_file: str = _key(
        "",
        "token: the file with the secret (HS256, at least 32 bytes) or the public key in PEM "
        "form (RS, PS, ES, EdDSA); read again when it changes",
    )
    token_audience: str = _key(
        "", "token: what a token's aud must name; empty takes tokens without aud alone"
    )
    node_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = _key(
        "node-1",
        "what this server calls itself to clients and in logs; unique among nodes",
        form="1 to 64 letters, digits, dots, dashes or underscores",
    )
    cluster: Annotated[str, AfterValidator(_check_cluster)] = _key(
        "",
        "etcd, as etcd://HOST:PORT,HOST:PORT or etcds:// for TLS: this server is then a node "
        "of the cluster that all with the same etcd form; empty for a server on its own",
    )
    cluster_secret_file: str = _key(
        "",
        "cluster: the file with the secret that all nodes share, at least 16 bytes; links "
        "between nodes need it",
    )
    advertise: Annotated[str, AfterValidator(_check_advertise)] = _key(
        "",
        "cluster: HOST:PORT where other nodes reach this one's TCP port, and clients unless "
        "public says otherwise; empty is the first address of tcp, if it names one",
    )
    public: Annotated[tuple[str, ...], PlainValidator(_parse_public)] = _key(
        (),
        "cluster: where clients reach this node, as tim://HOST:PORT, tims://, ws:// and wss://, "
        "one of each at most. Clients of the other nodes are told, and go there when theirs is "
        'gone. Empty is tim:// and the address of advertise, "none" is nowhere',
    )
    link_tls: Annotated[tuple[Address, ...], PlainValidator(_parse_addresses)] = _key(
        (),
        "cluster: where other nodes link to this one with TLS, HOST:PORT; the host, or that of "
        "advertise where it is every interface, is what the certificate must be for. All nodes "
        "have it or none; without it links are plain TCP",
    )
    link_tls_cert: str = _key(
        "",
        "cluster: the file with this node's certificate for links, for both ends of TLS, and "
        "the chain behind it, in PEM form; read again when it changes, as the next two are",
    )
    link_tls_key: str = _key("", "cluster: the file with its private key, without a passphrase")
    link_tls_ca: str = _key(
        "",
        "cluster: the file with the authority that issues the nodes' certificates, and no others",
    )
    node_weight: int = _key(
        1,
        "cluster: this node's share of the rooms, in proportion to the others'",
        least=1,
        most=1000,
    )
    link_fanout: int = _key(
        64,
        "cluster: nodes that this one feeds per room before it sends further ones on",
        unit="nodes",
        least=2,
        most=1024,
    )
    etcd_user: str = _key("", "cluster: whom to sign in as at etcd; empty for nobody")
    etcd_password_file: str = _key("", "cluster: the file with that user's password")
    etcd_ca_file: str = _key(
        "", "cluster: whom to trust for etcds://, in PEM form; empty is the system's authorities"
    )
    etcd_cert_file: str = _key(
        "", "cluster: our certificate and its key for etcds://, in one PEM file, if etcd wants one"
    )
    drain_timeout_s: float = _key(
        10.0,
        "that clients have to leave by themselves after SIGTERM before they are closed",
        unit="seconds",
        least=0.0,
        most=3600.0,
    )
    log_format: Literal["auto", "console", "json"] = _key(
        "auto", "auto is console on a terminal and json, one object a line, elsewhere"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _key(
        "info", "the least severe events to log; info has one line per connection and room"
    )
    limits: Limits = attrs.field(factory=Limits)


@attrs.frozen(kw_only=True)
class _Key:
    """One key: how to check a value, and what to say about it."""

    name: str  # with its section: "limits.max_frame_bytes"
    adapter: TypeAdapter[Any]
    why: str
    unit: str
    form: str
    least: float | None
    most: float | None

    @property
    def section(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def variable(self) -> str:
        return ENV_PREFIX + self.name.replace(".", "_").upper()

    def check(self, value: object, origin: str, *, strict: bool) -> object:
        """Return the value in the key's own type, or raise a ConfigError naming the key."""
        try:
            return self.adapter.validate_python(value, strict=strict)
        except ValidationError as error:
            # One line: the first complaint. The rest is usually its echo.
            raise ConfigError(f"{self._complain(error, value)} ({origin})") from None

    def _complain(self, error: ValidationError, value: object) -> str:
        detail = error.errors(include_url=False)[0]
        context = detail.get("ctx", {})
        unit = f" {self.unit}" if self.unit else ""
        given = json.dumps(value, default=str, ensure_ascii=False)
        match detail["type"]:
            case "greater_than_equal":
                wish = f"must be at least {context['ge']}{unit}, not {given}"
            case "less_than_equal":
                wish = f"must be at most {context['le']}{unit}, not {given}"
            case "value_error":
                wish = str(context["error"])
                if not wish.startswith("must"):
                    return f"{self.name}: {wish}"
            case "literal_error":
                wish = f"must be {context['expected'].replace(chr(39), chr(34))}, not {given}"
            case kind if kind.startswith("int"):
                wish = f"must be a whole number{unit and ' of' + unit}, not {given}"
            case kind if kind.startswith(("float", "finite")):
                wish = f"must be a number{unit and ' of' + unit}, not {given}"
            case kind if kind.startswith("bool"):
                wish = f"must be true or false, not {given}"
            case _:
                wish = f"must be {self.form}, not {given}" if self.form else detail["msg"]
        return f"{self.name} {wish}"


def _keys_of(cls: type[attrs.AttrsInstance], section: str) -> Iterator[_Key]:
    hints = get_type_hints(cls, include_extras=True)
    for field in attrs.fields(cls):
        if attrs.has(hints[field.name]):
            continue  # a section of its own
        least, most = field.metadata.get("least"), field.metadata.get("most")
        annotation: Any = hints[field.name]
        if least is not None or most is not None:
            annotation = Annotated[annotation, Field(ge=least, le=most)]
        if hints[field.name] is float:
            # TOML has inf and nan, and nan passes every comparison.
            annotation = Annotated[annotation, Field(allow_inf_nan=False)]
        yield _Key(
            name=section + field.name,
            adapter=TypeAdapter(annotation),
            why=field.metadata.get("why", ""),
            unit=field.metadata.get("unit", ""),
            form=field.metadata.get("form", ""),
            least=least,
            most=most,
        )


_SECTIONS = ("limits",)
_KEYS = {
    key.name: key for key in (*_keys_of(ServerConfig, ""), *_keys_of(Limits, _SECTIONS[0] + "."))
}
_VARIABLES = {key.variable: key for key in _KEYS.values()}


def load_config(
    *, file: Path | None, env: Mapping[str, str], overrides: Mapping[str, object]
) -> ServerConfig:
    """Combine all sources, the strongest last: defaults, file, environment, overrides.

    ``file`` may be None; then the variable ``TIM_TRIO_CONFIG``, if set, names
    it. ``env`` is usually ``os.environ``; only names that begin with
    ``TIM_TRIO_`` count, and an empty value is as good as none. ``overrides``
    has keys as in the file, nested or dotted (``limits.max_rooms``); a value
    of None or an empty tuple is a flag that was not given. Numbers may be text
    there and in the environment, not in the file.

    Blocks while it reads the file.

    Raises:
        ConfigError: in one line what is wrong, with the key and where it was given.
    """
    if file is None and env.get(CONFIG_VARIABLE):
        file = Path(env[CONFIG_VARIABLE])
    values: dict[str, object] = {}
    if file is not None:
        values.update(_from_file(file))
    values.update(_from_env(env))
    values.update(_from_overrides(overrides))
    return _build(values)


def _from_file(file: Path) -> Iterator[tuple[str, object]]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    for name, value in _flatten(document, f"in {file}"):
        key = _find(name, f"in {file}")
        yield name, key.check(value, f"in {file}", strict=True)


def _from_env(env: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    for variable, text in sorted(env.items()):
        if not variable.startswith(ENV_PREFIX) or variable in _OTHER_VARIABLES:
            continue
        key = _VARIABLES.get(variable)
        if key is None:
            hint = _closest(variable, [*_VARIABLES, *_OTHER_VARIABLES])
            raise ConfigError(f"unknown environment variable {variable}{hint}")
        if text:
            yield key.name, key.check(text, f"from {variable}", strict=False)


def _from_overrides(overrides: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in _flatten(overrides, "on the command line"):
        key = _find(name, "on the command line")
        if value is None or value == ():
            continue
        if name == "database_url" and isinstance(value, str) and _holds_password(value):
            raise ConfigError(
                "database_url holds a password, and a command line is there for all to see: "
                "set it in the file or in TIM_TRIO_DATABASE_URL"
            )
        yield name, key.check(value, "on the command line", strict=not isinstance(value, str))


def _holds_password(url: str) -> bool:
    """Say whether there may be one; a text that is no URL is taken at its worst."""
    authority = url.partition("://")[2].partition("/")[0]
    return "password=" in url or ":" in authority.rpartition("@")[0]


def _flatten(
    table: Mapping[str, object], where: str, prefix: str = ""
) -> Iterator[tuple[str, object]]:
    for leaf, value in table.items():
        name = prefix + leaf
        if isinstance(value, Mapping):
            if not value and name not in _SECTIONS:
                raise _unknown(name, where)
            yield from _flatten(value, where, name + ".")
        elif name in _SECTIONS:
            raise ConfigError(f"{name} is a table: write [{name}] ({where})")
        else:
            yield name, value


def _find(name: str, where: str) -> _Key:
    key = _KEYS.get(name)
    if key is None:
        raise _unknown(name, where)
    return key


def _unknown(name: str, where: str) -> ConfigError:
    leaf = name.rpartition(".")[2]
    same_leaf = [key.name for key in _KEYS.values() if key.leaf == leaf]
    hint = f'; did you mean "{same_leaf[0]}"?' if same_leaf else _closest(name, [*_KEYS])
    if not hint:
        by_leaf = {key.leaf: key.name for key in _KEYS.values()}
        near = difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.6)
        hint = f'; did you mean "{by_leaf[near[0]]}"?' if near else ""
    quoted = json.dumps(name, ensure_ascii=False)  # it may hold anything, a line end too
    return ConfigError(f"unknown key {quoted} {where}{hint or '; `tim_trio config` lists all'}")


def _closest(name: str, candidates: list[str]) -> str:
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


def _build(values: Mapping[str, object]) -> ServerConfig:
    top: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    prefix = _SECTIONS[0] + "."
    bounds: dict[str, Any] = {
        name.removeprefix(prefix): value for name, value in values.items() if name not in top
    }
    try:
        limits = Limits(**bounds)
    except ValueError as error:
        # Checks between bounds; each alone has been checked above.
        raise ConfigError(f"{prefix}{error}") from None
    config = ServerConfig(**top, limits=limits)
    if config.auth == "token" and not config.token_key_file:
        raise ConfigError(
            'token_key_file: auth = "token" needs the file with the secret or the public key'
        )
    if not (config.tcp or config.tls or config.web or config.web_tls):
        raise ConfigError("tcp, tls, web and web_tls are empty: there is nothing to listen on")
    if (config.tls or config.web_tls) and not (config.tls_cert and config.tls_key):
        missing = "tls_cert" if not config.tls_cert else "tls_key"
        raise ConfigError(f"{missing}: listening with TLS needs a certificate and its key")
    if config.cluster and not config.cluster_secret_file:
        raise ConfigError(
            "cluster_secret_file: a node of a cluster needs the file with the cluster's secret"
        )
    if config.link_tls:
        for name in ("cluster", "link_tls_cert", "link_tls_key", "link_tls_ca"):
            if not getattr(config, name):
                raise ConfigError(
                    f"{name}: links with TLS (link_tls) need cluster, link_tls_cert, "
                    "link_tls_key and link_tls_ca"
                )
        if len(config.link_tls) > 1:
            raise ConfigError("link_tls: one address is all that other nodes are told of")
    anyone_may_enter = config.auth == "open"
    if anyone_may_enter and not config.insecure_open:
        listeners = [
            (kind, address)
            for kind in ("tcp", "tls", "web", "web_tls")
            for address in getattr(config, kind)
        ]
        for kind, address in listeners:
            if not address.is_loopback:
                raise ConfigError(
                    f'{kind}: {address} is not a loopback address, and auth = "open" lets '
                    f"anyone act under any name; set insecure_open = true if that is meant"
                )
    return config


def render_defaults() -> str:
    """Return TOML text with every key, its default and why; :func:`load_config` reads it."""
    return render_config(ServerConfig())


def render_config(config: ServerConfig) -> str:
    """Return ``config`` as commented TOML text that :func:`load_config` reads back."""
    lines = [
        "# The configuration of a tim_trio server. A key left out has its default.",
        "# A flag wins over an environment variable, and that over this file.",
        "# The variable of a key is TIM_TRIO_ and its name in capitals; of a key in",
        "# [limits], TIM_TRIO_LIMITS_ and its name: TIM_TRIO_LIMITS_MAX_ROOMS.",
    ]
    section = ""
    for key in _KEYS.values():
        if key.section != section:
            section = key.section
            lines += ["", f"[{section}]"]
        owner = getattr(config, section) if section else config
        lines += ["", *_describe(key), f"{key.leaf} = {_toml(getattr(owner, key.leaf))}"]
    return "\n".join(lines) + "\n"


def _describe(key: _Key) -> list[str]:
    facts = [key.unit] if key.unit else []
    if key.least is not None and key.most is not None:
        facts.append(f"{_toml(key.least)} to {_toml(key.most)}")
    elif key.least is not None:
        facts.append(f"{_toml(key.least)} or more")
    text = f"{', '.join(facts)}: {key.why}" if facts else key.why
    return textwrap.wrap(text, 80, initial_indent="# ", subsequent_indent="# ")


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return f"{value:_}" if value >= 10_000 else str(value)
        case float():
            return repr(value)
        case tuple():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case _:
            # TOML's basic strings escape as JSON's do.
            return json.dumps(str(value), ensure_ascii=False)
