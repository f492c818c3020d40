"""Rooms, outboxes and what happens to the slow: everything between codec and socket.

Nothing here reads a socket or a clock: time comes in as an argument, bytes
leave through an `Outbox`. Apart from the directory's operations and the
services of `RoomManager`, everything is synchronous, so that nothing
overtakes half a fan-out.
"""
