"""A clock that only goes on."""

from tim_trio.media.timeline import Timeline

FRAME = 33_333


def test_the_first_pass_begins_with_0_and_the_next_where_it_ended() -> None:
    timeline = Timeline()
    timeline.begin_pass(1_400_000, may_jump=False)
    assert timeline.place(0, 1_400_000, 1_400_000, FRAME) == -1_400_000
    assert timeline.place(0, 1_433_333, 1_500_000, FRAME) == -1_400_000
    assert timeline.place(1, 1_400_000, 1_400_000, 20_000) == -1_400_000
    assert timeline.end_us == 100_000 + FRAME
    timeline.begin_pass(1_400_000, may_jump=False)
    assert 1_400_000 + timeline.place(0, 1_400_000, 1_400_000, FRAME) == 100_000 + FRAME


def test_a_clock_that_was_set_goes_on_for_all_tracks() -> None:
    timeline = Timeline()
    timeline.begin_pass(0, may_jump=True)
    timeline.place(0, 90_000_000, 90_000_000, FRAME)
    timeline.place(1, 90_000_000, 90_000_000, 20_000)
    offset = timeline.place(0, 5_000_000, 5_000_000, FRAME)
    assert 5_000_000 + offset == 90_000_000 + FRAME
    # The other track jumps too, and then both are together again.
    assert timeline.place(1, 5_000_000, 5_000_000, 20_000) == offset


def test_ahead_it_is_a_pause_unless_the_format_s_clock_may_jump() -> None:
    for may_jump, expected in ((False, 60_000_000), (True, 20_000)):
        timeline = Timeline()
        timeline.begin_pass(0, may_jump=may_jump)
        timeline.place(1, 0, 0, 20_000)
        assert 60_000_000 + timeline.place(1, 60_000_000, 60_000_000, 20_000) == expected


def test_small_steps_are_none() -> None:
    timeline = Timeline()
    timeline.begin_pass(0, may_jump=True)
    for dts in (0, 5_000_000, 4_100_000, 14_000_000):
        assert timeline.place(0, dts, dts, FRAME) == 0


def test_passes_that_are_skipped() -> None:
    timeline = Timeline()
    timeline.skip(3, 2_000_000)
    timeline.begin_pass(500_000, may_jump=False)
    assert 500_000 + timeline.place(0, 500_000, 500_000, FRAME) == 6_000_000
