"""``serve``, ``config`` and ``version``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tim_trio._version import __version__

if TYPE_CHECKING:
    from tim_trio.config import ServerConfig


@click.command()
@click.option(
    "--tcp",
    multiple=True,
    metavar="HOST:PORT",
    help="Listen here instead of 127.0.0.1:7600; port 0 takes a free one. May be repeated.",
)
@click.option(
    "--tls",
    multiple=True,
    metavar="HOST:PORT",
    help="Listen here with TLS, beside --tcp; needs --tls-cert and --tls-key. May be repeated.",
)
@click.option("--tls-cert", metavar="FILE", help="The certificate and its chain, PEM.")
@click.option("--tls-key", metavar="FILE", help="The certificate's private key, PEM.")
@click.option(
    "--web",
    multiple=True,
    metavar="HOST:PORT",
    help="Serve the page and WebSocket here instead of 127.0.0.1:7680. May be repeated.",
)
@click.option("--no-web", is_flag=True, help="Serve neither page nor WebSocket, but --web-tls.")
@click.option(
    "--web-tls",
    multiple=True,
    metavar="HOST:PORT",
    help="Serve them here with TLS, beside --web. May be repeated.",
)
@click.option("--greet", is_flag=True, help="Say in the end where the page is.")
@click.option(
    "--cluster",
    metavar="etcd://HOST:PORT,...",
    help="Be a node of the cluster that meets at this etcd; needs --cluster-secret.",
)
@click.option(
    "--cluster-secret",
    "cluster_secret_file",
    metavar="FILE",
    help="The file with the secret that all nodes share.",
)
@click.option(
    "--advertise",
    metavar="HOST:PORT",
    help="Where other nodes reach this one; the first --tcp address without it.",
)
@click.option("--name", "node_name", metavar="NAME", help="This node, unique in its cluster.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    metavar="N",
    help="Run N processes behind the same ports, as nodes NAME-1 to NAME-N; needs --cluster.",
)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A TOML file; `tim_trio config` prints one with every key.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other key of the configuration, such as limits.max_rooms=10. May be repeated.",
)
def serve(
    tcp: tuple[str, ...],
    tls: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    web: tuple[str, ...],
    no_web: bool,
    web_tls: tuple[str, ...],
    cluster: str | None,
    cluster_secret_file: str | None,
    advertise: str | None,
    node_name: str | None,
    workers: int,
    greet: bool,
    file: Path | None,
    settings: tuple[str, ...],
) -> int:
    """Run the server until SIGINT or SIGTERM.

    Prints "listening tcp HOST:PORT", or tls, web, web-tls instead of tcp, for each
    listener once it accepts.
    """
    if web and no_web:
        raise click.UsageError("--web and --no-web: give one of them")
    # Imported here and not above: checking a configuration takes a library
    # that is slow to load, and every `room info` would pay for it.
    from tim_trio.config import ConfigError, load_config

    overrides: dict[str, object] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise click.BadParameter(f"{setting!r} is not KEY=VALUE", param_hint="--set")
        overrides[key.strip()] = value.strip()
    if tcp:
        overrides["tcp"] = list(tcp)
    if web or no_web:
        overrides["web"] = list(web)
    if tls:
        overrides["tls"] = list(tls)
    if web_tls:
        overrides["web_tls"] = list(web_tls)
    overrides.update(
        (name, value)
        for name, value in (
            ("tls_cert", tls_cert),
            ("tls_key", tls_key),
            ("cluster", cluster),
            ("cluster_secret_file", cluster_secret_file),
            ("advertise", advertise),
            ("node_name", node_name),
        )
        if value is not None
    )
    try:
        config = load_config(file=file, env=os.environ, overrides=overrides)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    if workers == 1:
        from tim_trio.app import run_server

        return run_server(config, greet=greet)
    return _serve_as_workers(config, workers)


def _serve_as_workers(config: ServerConfig, workers: int) -> int:
    from tim_trio.cli.workers import WORKER_VARIABLE, run_workers

    if not config.cluster:
        raise click.UsageError("--workers: they share rooms as nodes of a cluster: give --cluster")
    number = os.environ.get(WORKER_VARIABLE)
    if number is None:
        listened = (*config.tcp, *config.tls, *config.web, *config.web_tls)
        if any(address.port == 0 for address in listened):
            raise click.UsageError("--workers: they share their ports, so none may be 0")
        return run_workers(workers)
    import attrs

    from tim_trio.app import run_server

    config = attrs.evolve(config, node_name=f"{config.node_name}-{number}")
    return run_server(config, is_worker=True)


@click.command()
def config() -> None:
    """Print every key of the configuration with its default, as a TOML file."""
    from tim_trio.config import render_defaults

    click.echo(render_defaults(), nl=False)


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"tim_trio {__version__}")
