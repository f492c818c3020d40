"""Many nodes as one: placement, etcd, membership, the rooms' trees and the links between nodes.

A single node has none of this.
"""
