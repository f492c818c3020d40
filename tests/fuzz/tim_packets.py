"""Fuzzes the packets of TIM's clients: any bytes give a packet or the one error."""

from collections.abc import Iterator

from tests.fuzz import engine

with engine.instrumented():
    from tests.protocol.builders import load_vectors
    from tim_trio.protocol.tim import compact, json_form, packets
    from tim_trio.protocol.tim.packets import BigBinary, BigStream, BigString, Body
    from tim_trio.protocol.tim.structs import TimFormatError


def run_one(data: bytes) -> None:
    """Read one message as the server does, and write what it held again."""
    try:
        packet = packets.decode(data)
    except TimFormatError:
        return
    match packet:
        case Body(value=value):
            kind = type(value)
            assert compact.decode(kind, compact.encode(value)) == value
            assert json_form.decode(kind, json_form.encode(value)) == value
        case BigString(node=node, text=text):
            rest = f"{node}|{text}".encode()
            assert data[5:].replace(b"\0", b"|", 1) == rest or data[5:] == rest
        case BigBinary(node=node, body=body) | BigStream(room=node, body=body):
            assert data[5:] == node.encode() + b"\x83" + body


def seeds() -> Iterator[bytes]:
    """The golden vectors in both formats, and what cannot be read."""
    cases = load_vectors("tim")
    for case in cases["vectors"]:
        for form in ("json", "thrift", "bytes"):
            if form in case:
                yield bytes.fromhex("".join(digits for digits, _ in case[form]))
    for case in cases["invalid"]:
        yield bytes.fromhex(case["hex"])


if __name__ == "__main__":
    engine.main(run_one, seeds(), max_input_bytes=512)
