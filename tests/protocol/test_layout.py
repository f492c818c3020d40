"""The numbers of the layout are those of protocol.md, sections 2, 4 and 5."""

from tim_trio.protocol import layout
from tim_trio.protocol.layout import Flag


def test_sizes() -> None:
    assert layout.PRELUDE_BYTES == 8
    assert layout.CONTROL_HEADER_BYTES == 12
    assert layout.STREAM_HEADER_BYTES == 36
    assert layout.LENGTH_BYTES == layout.EXT_WORD_BYTES == 4


def test_prelude() -> None:
    assert layout.PRELUDE.pack(1, 2, 3, 4, 5) == bytes.fromhex("00000001 02 03 04 05")


def test_control_header() -> None:
    assert layout.CONTROL_HEADER.pack(1, 2, 3, 4, 5, 6) == bytes.fromhex(
        "00000001 02 03 04 05 00000006"
    )


def test_stream_header() -> None:
    assert layout.STREAM_HEADER.pack(1, 2, 3, 4, 5, 6, 7, 8, -1) == bytes.fromhex(
        "00000001 02 03 04 05 0000000000000006 00000007 0000000000000008 ffffffffffffffff"
    )


def test_constants() -> None:
    assert layout.VERSION == 1
    assert layout.MAGIC.to_bytes(4, "big") == b"TIMT"
    assert layout.STREAM == 0x40
    assert layout.ANSWER_BIT == 0x80
    assert layout.MAX_GREETING_BYTES == 4096
    assert layout.UNLIMITED_CREDIT == 0x1FFFFFFFFFFFFF


def test_flags() -> None:
    assert {flag.name: flag.value for flag in Flag} == {"INIT": 1, "KEY": 2, "END": 4}
    assert int(Flag.NONE) == 0
