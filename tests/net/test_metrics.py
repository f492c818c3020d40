"""The figures as Prometheus reads them."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tim_trio.core.node import Node
from tim_trio.limits import Limits
from tim_trio.net.collector_pauses import PASSES
from tim_trio.net.loop_delay import LoopDelay
from tim_trio.net.metrics import (
    NodeCollector,
    TokenFileError,
    make_registry,
    read_token,
    render,
)


def scrape(node: Node, delay: LoopDelay | None = None) -> dict[tuple[str, str], float]:
    """Return every sample by its name and its labels' values."""
    collector = NodeCollector(node, delay or LoopDelay(), lambda: {"tcp": 2, "websocket": 3})
    content_type, text = render(make_registry(collector))
    assert content_type.startswith("text/plain")
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_all_figures_of_the_node_are_there() -> None:
    node = Node(Limits())
    numbers = {name: 1000 + index for index, name in enumerate(sorted(node.figures()))}
    for name, value in numbers.items():
        setattr(node, name, value)
    values = scrape(node).values()
    # The connections are counted by transport instead.
    missing = {name for name, value in numbers.items() if value not in values}
    assert missing == {"connections"}


def test_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(Limits(), frames_in=7, bytes_out=8, lagging=9)
    node.count_close(1005)
    node.count_close(1005)
    node.count_close(None)
    delay = LoopDelay()
    delay.note(0.002)
    delay.note(2)
    monkeypatch.setattr(PASSES[2], "longest_s", 0.25)
    samples = scrape(node, delay)
    assert samples["tim_trio_frames_received_total", ""] == 7
    assert samples["tim_trio_sent_bytes_total", ""] == 8
    assert samples["tim_trio_lagging_subscriptions", ""] == 9
    assert samples["tim_trio_connections", "tcp"] == 2
    assert samples["tim_trio_connections", "websocket"] == 3
    assert samples["tim_trio_connections_closed_total", "slow_consumer"] == 2
    assert samples["tim_trio_connections_closed_total", "lost"] == 1
    assert samples["tim_trio_event_loop_delay_seconds_bucket", "0.001"] == 0
    assert samples["tim_trio_event_loop_delay_seconds_bucket", "0.0025"] == 1
    assert samples["tim_trio_event_loop_delay_seconds_bucket", "+Inf"] == 2
    assert samples["tim_trio_event_loop_delay_seconds_count", ""] == 2
    assert samples["tim_trio_event_loop_delay_seconds_sum", ""] == pytest.approx(2.002)
    for generation, passes in enumerate(PASSES):
        name = "tim_trio_garbage_collection_seconds_count"
        assert samples[name, str(generation)] == passes.count
    longest = samples["tim_trio_garbage_collection_longest_seconds", "2"]
    assert longest == PASSES[2].longest_s == 0.25
    assert samples["process_open_fds", ""] > 0


def test_a_token_is_read_without_the_line_end(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"0123456789abcdef\n")
    assert read_token(path) == b"0123456789abcdef"


@pytest.mark.parametrize(
    "content, says",
    [(b"", "holds 0 bytes"), (b"short\n", "holds 5 bytes"), (b"x" * 5000, "16 to 4096")],
)
def test_a_token_that_is_none(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(TokenFileError, match=says):
        read_token(path)


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match=r"cannot read .*: No such file"):
        read_token(tmp_path / "none")
