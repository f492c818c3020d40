"""What a person sees who configures a node, rightly or wrongly."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.etcd_process import EtcdMember, free_ports
from tests.cluster.processes import running_nodes
from tests.net.certificates import Certificates
from tim_trio.cluster.configured import ClusterConfigError, cluster_settings
from tim_trio.cluster.secret import SecretFileError, Verifier, prove, read_secret
from tim_trio.config import Address, ConfigError, ServerConfig, load_config
from tim_trio.net.tls import TlsFileError

SECRET = "0123456789abcdef"


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    return str(path)


def test_the_first_address_that_means_something_is_advertised(secret: str) -> None:
    config = ServerConfig(cluster="etcd://a:1,b:2", cluster_secret_file=secret)
    settings = cluster_settings(config, ["0.0.0.0:7600", "[::]:7600", "10.0.0.1:7600"])
    assert settings.address == "10.0.0.1:7600"
    assert list(settings.endpoints) == ["http://a:1", "http://b:2"]
    assert settings.secret == SECRET.encode()
    assert SECRET not in repr(settings)
    with pytest.raises(ClusterConfigError, match="advertise"):
        cluster_settings(config, ["0.0.0.0:7600"])


def test_what_is_given_is_advertised(secret: str) -> None:
    config = ServerConfig(
        cluster="etcd://a:1", cluster_secret_file=secret, advertise="relay.example:7600"
    )
    assert cluster_settings(config, ["10.0.0.1:7600"]).address == "relay.example:7600"


def test_where_clients_reach_a_node(secret: str) -> None:
    def public(shares_port: bool = False, **keys: object) -> tuple[str, ...]:
        base = {"cluster": "etcd://a:1", "cluster_secret_file": secret}
        config = load_config(file=None, env={}, overrides={**base, **keys})
        return cluster_settings(config, ["127.0.0.1:7600"], shares_port=shares_port).public

    assert public() == ("tim://127.0.0.1:7600",)
    assert public(advertise="relay.example:7600") == ("tim://relay.example:7600",)
    # A port that several processes share leads to any of them.
    assert public(shares_port=True) == ()
    named = "tims://relay.example:7601,wss://relay.example:443"
    assert public(public=named) == tuple(named.split(","))
    assert public(public=named, shares_port=True) == tuple(named.split(","))
    assert public(public="none") == ()
    assert public(tcp="", tls="127.0.0.1:0", tls_cert="c", tls_key="k", advertise="a:1") == ()


@pytest.mark.parametrize(
    "value",
    [
        *("a:1", "http://a:1", "tim://a", "tim://a:0", "wss://a:1/ws", "none,tim://a:1"),
        *("tim://a:1,tim://b:1", "tim://" + "a" * 250 + ":1"),
    ],
)
def test_where_no_client_gets(value: str) -> None:
    with pytest.raises(ConfigError, match="public"):
        load_config(file=None, env={}, overrides={"public": value})


def test_files_that_are_not_there(tmp_path: Path, secret: str) -> None:
    missing = str(tmp_path / "missing")
    base = {"cluster": "etcds://a:1", "cluster_secret_file": secret}
    for key in ("etcd_password_file", "etcd_ca_file", "etcd_cert_file"):
        config = load_config(file=None, env={}, overrides={**base, key: missing})
        with pytest.raises(ClusterConfigError, match=key):
            cluster_settings(config, ["10.0.0.1:7600"])


@pytest.mark.parametrize(
    "value", ["a:1", "http://a:1", "etcd://", "etcd://a", "etcd://user:pw@a:1", "etcd://a:1,b"]
)
def test_what_is_no_etcd(value: str) -> None:
    with pytest.raises(ConfigError, match="cluster"):
        load_config(file=None, env={}, overrides={"cluster": value})


def test_a_cluster_needs_its_secret() -> None:
    with pytest.raises(ConfigError, match="cluster_secret_file"):
        load_config(file=None, env={}, overrides={"cluster": "etcd://a:1"})
    with pytest.raises(ConfigError, match="advertise"):
        load_config(file=None, env={}, overrides={"advertise": "nowhere"})
    assert Address.parse("a:1").port == 1


def test_links_with_tls_need_all_their_files(tmp_path: Path, secret: str) -> None:
    files = Certificates(tmp_path)
    given = {
        "cluster": "etcd://a:1",
        "cluster_secret_file": secret,
        "link_tls": "0.0.0.0:7700",
        "link_tls_cert": str(files.certificate),
        "link_tls_key": str(files.key),
        "link_tls_ca": str(files.authority),
    }
    for key in ("cluster", "link_tls_cert", "link_tls_key", "link_tls_ca"):
        with pytest.raises(ConfigError, match=f"^{key}: "):
            load_config(file=None, env={}, overrides={**given, key: ""})
    with pytest.raises(ConfigError, match="link_tls: one address"):
        load_config(file=None, env={}, overrides={**given, "link_tls": "a:1,b:1"})
    config = load_config(file=None, env={}, overrides=given)
    settings = cluster_settings(config, ["10.0.0.1:7600"], ["0.0.0.0:7701"])
    assert settings.link_address == "10.0.0.1:7701"
    config = load_config(file=None, env={}, overrides={**given, "link_tls": "n1.example:0"})
    settings = cluster_settings(config, ["10.0.0.1:7600"], ["10.0.0.1:7701"])
    assert settings.link_address == "n1.example:7701"
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(TlsFileError, match=r"ca\.pem does not hold certificates of authorities"):
        cluster_settings(config, ["10.0.0.1:7600"], ["10.0.0.1:7701"])
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(TlsFileError, match=r"cannot read .*ca\.pem"):
        cluster_settings(config, ["10.0.0.1:7600"], ["10.0.0.1:7701"])


def test_secrets_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with pytest.raises(SecretFileError, match="cluster_secret_file: cannot read"):
        read_secret(path)
    for content in (b"short", b"x" * 5000):
        path.write_bytes(content)
        with pytest.raises(SecretFileError, match="16 to 4096 bytes"):
            read_secret(path)


NOW = 1_700_000_000_000


def refused(verifier: Verifier, dialer: str, proof: bytes, now: int = NOW) -> str:
    return verifier.fault_in(dialer, proof, now)


def test_a_proof_is_good_once_for_one_pair_for_a_minute() -> None:
    key = SECRET.encode()
    verifier = Verifier("b", key)
    assert not refused(verifier, "a", prove(key, "a", "b", NOW))
    proof = prove(key, "a", "b", NOW)
    assert refused(verifier, "c", proof)
    assert refused(Verifier("d", key), "a", proof)
    assert refused(verifier, "a", proof, NOW + 60_501) == "its clock is 61 s behind ours"
    assert refused(verifier, "a", proof, NOW - 100_000) == "its clock is 100 s ahead of ours"
    another = prove(b"another secret!!", "a", "b", NOW)
    assert refused(verifier, "a", another) == "it has another cluster secret"
    assert refused(verifier, "a", b"")
    assert refused(verifier, "a", proof[:-1])
    assert not refused(verifier, "a", proof, NOW + 59_000)
    assert refused(verifier, "a", proof) == "its proof has been used before"


def test_old_proofs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tim_trio.cluster.secret._SEEN_KEPT", 2)
    key = SECRET.encode()
    verifier = Verifier("b", key)
    for _ in range(5):
        assert not refused(verifier, "a", prove(key, "a", "b", NOW))
    assert len(verifier._seen) == 2


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tim_trio", *arguments], capture_output=True, text=True, timeout=50
    )


@pytest.mark.slow
def test_a_node_without_its_etcd_says_so_in_one_line(secret: str) -> None:
    (port,) = free_ports(1)
    done = run(
        *("serve", "--tcp", "127.0.0.1:0", "--no-web", "--cluster", f"etcd://127.0.0.1:{port}"),
        *("--cluster-secret", secret),
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("error: etcd is not available")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_looking_at_a_cluster(etcd: EtcdMember) -> None:
    look = ("cluster", "--cluster", etcd.url.replace("http", "etcd"))
    with running_nodes(etcd.url, "n1", "n2") as nodes:
        lines = run(*look, "nodes").stdout.splitlines()
        assert [line.split("\t")[0] for line in lines] == ["n1", "n2"]
        room = run(
            "room", "register", "--server", nodes["n1"].url, "--account", "me"
        ).stdout.strip()
        ranking = nodes.ranking(room)
        (line,) = run(*look, "rooms").stdout.splitlines()
        assert line == f"{room}\tlive\trelay {ranking[0]}\tsecond {ranking[1]}\tby me"
        assert run(*look, "where", room).stdout == f"relay\t{ranking[0]}\nsecond\t{ranking[1]}\n"
        n1 = ("--server", nodes["n1"].url, "--account", "me")
        assert run("ban", "account", "mallory", "--reason", "sp\x1bam", *n1).returncode == 0
        (line,) = run(*look, "bans").stdout.splitlines()
        assert line.startswith("mallory\t") and line.endswith("\tby me\tspam")
        assert run(*look, "unban", "mallory").returncode == 0
        again = run(*look, "unban", "mallory")
        assert again.returncode == 1 and "mallory is not banned" in again.stderr
        missing = run(*look, "where", "NGhMpCbk2wQ")
        assert missing.returncode == 1 and "does not exist" in missing.stderr
    assert run("cluster", "--cluster", "nonsense", "nodes").returncode == 1


@pytest.mark.slow
def test_accounts_that_other_machines_do_not_see_are_said_to_be_so(
    secret: str, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    done = run(
        *("serve", "--tcp", "127.0.0.1:0", "--no-web", "--cluster", f"etcd://127.0.0.1:{port}"),
        *("--cluster-secret", secret, "--set", "auth=accounts"),
        *("--set", f"database_url=sqlite:///{tmp_path}/accounts.sqlite"),
    )
    assert "accounts are in a file of this machine" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: etcd is not available")
