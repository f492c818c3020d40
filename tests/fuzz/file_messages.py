"""Fuzzes what one client sends another about files: any bytes give a message or nothing."""

from collections.abc import Iterator

from tests.fuzz import engine

with engine.instrumented():
    from tests.protocol.builders import load_vectors
    from tim_trio.net.client.files import messages


def run_one(data: bytes) -> None:
    """Read one payload as a client does, and write what it held again."""
    message = messages.decode(data)
    if message is not None and not isinstance(message, messages.UnknownOffer):
        assert messages.decode(messages.encode(message)) == message


def seeds() -> Iterator[bytes]:
    """The golden vectors, those that are to be ignored too."""
    for vectors in load_vectors("file_messages").values():
        if isinstance(vectors, list):
            for each in vectors:
                yield bytes.fromhex(each["hex"]) if "hex" in each else each["text"].encode()


if __name__ == "__main__":
    engine.main(run_one, seeds(), max_input_bytes=1024)
