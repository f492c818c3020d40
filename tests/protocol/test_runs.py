"""The run itself; what the decoder puts into one is in test_decoder."""

from tim_trio.protocol.runs import Run


def run(first_seq: int, last_seq: int) -> Run:
    return Run(
        room=1,
        source=2,
        track=3,
        first_seq=first_seq,
        last_seq=last_seq,
        first_key=-1,
        first_key_seq=0,
        last_key=-1,
        last_key_seq=0,
        init_bytes=0,
        end_offset=-1,
        data=b"",
    )


def test_frames_counts_both_ends() -> None:
    assert run(5, 5).frames == 1
    assert run(0, 2**64 - 1).frames == 2**64


def test_runs_are_compared_by_identity() -> None:
    assert run(0, 1) != run(0, 1)
