// What both sides of a file transfer count and wait for, with units and reasons.
//
// Source: protocol.md, Annex B.

/** An offer is repeated so often: soon at first and after a loss, then seldom. */
export const OFFER_SOON_MS = 1000;
export const OFFER_INTERVAL_MS = 4000;
export const OFFERS_SOON = 10;
/** A question is dropped after so long without a repeat: several were lost then. */
export const OFFER_LAPSES_MS = 20_000;
/** From `accept` to `start`. */
export const START_WITHIN_MS = 15_000;
/** From `start` to the first subscriber. */
export const SUBSCRIBER_WITHIN_MS = 15_000;
/** Without a frame, before a receiver gives an attempt up. */
export const SILENCE_MS = 60_000;
/** From END to `done`: what is queued may have to pass a slow line first. */
export const DONE_WITHIN_MS = 300_000;
/** Of the room of an attempt that nobody removed. */
export const ROOM_IDLE_S = 60;
/** Between two attempts of one transfer, however often the receiver asks. */
export const ATTEMPT_INTERVAL_MS = 1000;
/** Offers that wait for a person, in all and of one account. */
export const MAX_QUESTIONS = 64;
export const MAX_QUESTIONS_PER_ACCOUNT = 8;
/** Transfers that are wanted or under way. */
export const MAX_TRANSFERS = 256;
/** Transfers that are over and still answered for. */
export const MAX_REMEMBERED = 1024;
