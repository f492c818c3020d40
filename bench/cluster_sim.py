"""The pure parts of a cluster at sizes that no machine here could run.

Placement of a million rooms on ten thousand nodes, one room that is on all of
them, and what their churn asks of etcd. Run it with ``python -m bench.cluster_sim``;
what it found is in docs/cluster.md.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tests.cluster.tree_network import Network
from tim_trio.cluster.placement import RANKED, Placement, node_seed

U64 = npt.NDArray[np.uint64]
_FIRST_FACTOR: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_FACTOR: Final = np.uint64(0x94D049BB133111EB)
_CHUNK: Final = 4_000_000
_OUT: Final = Path(__file__).parent / "out" / "cluster_sim.json"


def mix(values: U64) -> U64:
    """As `placement.mix`, of an array, in place."""
    values ^= values >> np.uint64(30)
    values *= _FIRST_FACTOR
    values ^= values >> np.uint64(27)
    values *= _SECOND_FACTOR
    values ^= values >> np.uint64(31)
    return values


def rank_all(rooms: U64, seeds: U64) -> npt.NDArray[np.int32]:
    """Return the first four nodes of every room, as indices into ``seeds``."""
    found = np.empty((len(rooms), RANKED), np.int32)
    mixed = mix(rooms.copy())
    step = max(1, _CHUNK // len(seeds))
    for start in range(0, len(rooms), step):
        scores = mix(mixed[start : start + step, None] ^ seeds[None, :])
        top = np.argpartition(scores, len(seeds) - RANKED, axis=1)[:, -RANKED:]
        order = np.argsort(np.take_along_axis(scores, top, axis=1), axis=1)[:, ::-1]
        found[start : start + step] = np.take_along_axis(top, order, axis=1)
    return found


def check_against_product(rooms: U64, names: list[str], ranked: npt.NDArray[np.int32]) -> None:
    """The array code must be the product's placement, or its figures mean nothing."""
    placement = Placement(dict.fromkeys(names, 1))
    for i in range(0, len(rooms), max(1, len(rooms) // 20)):
        ours = tuple(names[index] for index in ranked[i])
        assert ours == placement.rank(int(rooms[i])), "bench and product disagree"


def place(nodes: int, rooms: int, seed: int) -> dict[str, Any]:
    """Place rooms, lose a node, gain a node."""
    generator = np.random.default_rng(seed)
    names = [f"node-{i}" for i in range(nodes)]
    seeds = np.array([node_seed(name) for name in names], np.uint64)
    numbers = generator.integers(58**10, 2**64, rooms, np.uint64)
    began = time.perf_counter()
    ranked = rank_all(numbers, seeds)
    took_s = time.perf_counter() - began
    check_against_product(numbers, names, ranked)
    per_node = np.bincount(ranked[:, 0], minlength=nodes)
    lost = int(generator.integers(nodes))
    is_relay = ranked[:, 0] == lost
    heirs = np.bincount(ranked[is_relay, 1], minlength=nodes)
    newcomer = np.uint64(node_seed("newcomer"))
    best = mix(mix(numbers.copy()) ^ seeds[ranked[:, 0]])
    moved_by_join = int(np.sum(mix(mix(numbers.copy()) ^ newcomer) > best))
    return {
        "nodes": nodes,
        "rooms": rooms,
        "rank_all_s": round(took_s, 1),
        "rooms_per_relay_mean": rooms / nodes,
        "rooms_per_relay_max": int(per_node.max()),
        "max_over_mean": round(float(per_node.max() * nodes / rooms), 2),
        "relays_moved_by_one_lost_node": int(is_relay.sum()),
        "in_whose_first_four_it_was": int((ranked == lost).any(axis=1).sum()),
        "most_that_one_heir_gets": int(heirs.max()),
        "relays_moved_by_one_new_node": moved_by_join,
        "least_possible": round(rooms / nodes, 1),
    }


def grow(nodes: int, viewers: int, fanout: int, lost: int, seed: int) -> dict[str, Any]:
    """One room on all nodes: build its tree, and lose nodes, the relay among them."""
    generator = random.Random(seed)
    names = [f"node-{i}" for i in range(nodes)]
    room = 58**10 + seed
    placement = Placement(dict.fromkeys(names, 1))
    network = Network(names, seed, fanout)
    network.rank(placement.rank(room, 16))
    began = time.perf_counter()
    for name in names:
        network.nodes[name].tree.want(True)
        network.nodes[name].act()
    steps = network.settle()
    depth = max(len(node.tree.path) for node in network.nodes.values())
    children = max(len(node.tree.children) for node in network.nodes.values())
    relay = placement.rank(room, 1)[0]
    victims = [relay, *generator.sample([name for name in names if name != relay], lost - 1)]
    for victim in victims:
        network.kill(victim)
    repaired = network.settle()
    left = {name: 1 for name in names if name not in victims}
    network.rank(Placement(left).rank(room, 16))
    repaired += network.settle()
    living = [node for node in network.nodes.values() if node.is_alive]
    living[0].publish()
    network.settle()
    reached = sum(living[0].name in node.last for node in living)
    copies = sum(node.received for node in living)
    return {
        "nodes": nodes,
        "viewers": viewers,
        "viewers_per_node": viewers // nodes,
        "fanout": fanout,
        "depth": depth,
        "most_children": children,
        "messages_to_build": steps,
        "nodes_lost_at_once": lost,
        "messages_to_repair": repaired,
        "depth_after": max(len(node.tree.path) for node in living),
        "nodes_reached": reached,
        "nodes_living": len(living),
        "copies_per_node": round(copies / len(living), 3),
        "took_s": round(time.perf_counter() - began, 1),
    }


def ask_of_etcd(
    nodes: int, rooms: int, room_life_s: float, login_life_s: float, clients: int
) -> dict[str, Any]:
    """Return etcd's work in a steady state, by what causes it, per second.

    Writes go through Raft; keep-alives of leases do not, and reads may be
    answered by any member.
    """
    return {
        "nodes": nodes,
        "rooms": rooms,
        "clients": clients,
        "writes_rooms": round(3 * rooms / room_life_s),  # a lease, a record, its end
        "writes_sources": round(2 * rooms / room_life_s),  # one source per room: claimed, released
        "writes_logins": round(2 * clients / login_life_s),  # online and offline again
        "keep_alives_nodes": round(nodes / (5 / 4)),
        "keep_alives_rooms": round(rooms / (450 / 4)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--rooms", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    result = {
        "placement": [
            place(nodes, options.rooms, options.seed)
            for nodes in sorted({100, 1000, options.nodes})
        ],
        "one_room": [
            grow(nodes, 1000 * nodes, 64, max(1, nodes // 100), options.seed)
            for nodes in sorted({100, 1000, options.nodes})
        ],
        "etcd": [
            ask_of_etcd(nodes, 100 * nodes, 3600, 1800, 1000 * nodes)
            for nodes in sorted({3, 100, 1000, options.nodes})
        ],
    }
    _OUT.parent.mkdir(exist_ok=True)
    _OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
