"""What both sides of a file transfer count and wait for, with units and reasons.

Source: protocol.md, Annex B.
"""

from __future__ import annotations

from typing import Final

#: An offer is repeated so often: soon at first and after a loss, then seldom.
OFFER_SOON_S: Final = 1.0
OFFER_INTERVAL_S: Final = 4.0
OFFERS_SOON: Final = 10
#: A question is dropped after so long without a repeat: several were lost then.
OFFER_LAPSES_S: Final = 20.0
#: From `accept` to `start`.
START_WITHIN_S: Final = 15.0
#: From `start` to the first subscriber.
SUBSCRIBER_WITHIN_S: Final = 15.0
#: Without a frame, before a receiver gives an attempt up.
SILENCE_S: Final = 60.0
#: From END to `done`: what is queued may have to pass a slow line first.
DONE_WITHIN_S: Final = 300.0
#: Of the room of an attempt that nobody removed.
ROOM_IDLE_S: Final = 60
#: Between two attempts of one transfer, however often the receiver asks.
ATTEMPT_INTERVAL_S: Final = 1.0
#: Offers that wait for a person, in all and of one account.
MAX_QUESTIONS: Final = 64
MAX_QUESTIONS_PER_ACCOUNT: Final = 8
#: Transfers that are wanted or under way.
MAX_TRANSFERS: Final = 256
#: Transfers that are over and still answered for.
MAX_REMEMBERED: Final = 1024
