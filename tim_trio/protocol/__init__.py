"""The wire protocol as a pure core: no I/O, no clocks, no logging.

`decoder` cuts received bytes into runs of stream frames and control frames,
`messages` gives the control frames their fields, `stream` builds and reads
stream frames, `room_ids` writes room ids for people.

Source: protocol.md.
"""
