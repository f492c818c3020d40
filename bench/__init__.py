"""The benchmark: tim_trio beside nats-server, redis-server, mosquitto and a C floor.

Started with ``make bench`` or ``python -m bench``; README.md in this folder says what
is measured and how.
"""
