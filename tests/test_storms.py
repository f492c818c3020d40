"""A rush and attacks beside a stream: who is answered, and that nobody else loses anything.

How fast it all is, `python -m bench.storms` says.
"""

from __future__ import annotations

import pytest
from attrs import evolve

from bench.storms.__main__ import SCENES, run_scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_a_rush_of_logins() -> None:
    # The threads that check passwords wait for everything else on a busy machine.
    patient = {"limits.handshake_timeout_s": "50"}
    scene = evolve(SCENES["login"], amount=50, settings=patient)
    found = run_scene(scene, calm_s=0.2, storm_s=2.0, with_control=False, watchers=20)
    attack, seen = found.rounds[0].attacks["storm"], found.rounds[0].seen["storm"]
    outcomes = attack["outcomes"]
    assert sum(outcomes.values()) == 100
    assert not [outcome for outcome in outcomes if outcome.startswith("unanswered")]
    assert outcomes["signed in"]
    assert seen["lost"] == {}
    # A second of the stream at the least, for everybody.
    assert seen["deliveries"] > 20 * 30
    assert seen["joins"]


@pytest.mark.parametrize("name", [name for name in SCENES if name != "login"])
def test_an_attack_from_one_address(name: str) -> None:
    """Streams, requests and newcomers from another address are served as ever."""
    scene = evolve(SCENES[name], amount=min(SCENES[name].amount, 1500))
    found = run_scene(scene, calm_s=0.2, storm_s=2.0, with_control=False, watchers=20)
    attack, seen = found.rounds[0].attacks["storm"], found.rounds[0].seen["storm"]
    assert attack["outcomes"]
    assert seen["lost"] == {}
    assert seen["deliveries"] > 20 * 30
    assert seen["pings"] > 5
    assert seen["joins"]
