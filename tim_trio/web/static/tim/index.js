// tim.js: a client of tim_trio's protocol, for browsers and Node.
//
// The wire is described in protocol.md; this is all of it that a client needs.

export { Client, connect, greet, randomToken, registerAccount } from "./client.js";
export { Code, codeLabel, isRetryable } from "./codes.js";
export { DEFAULT_BOUNDS } from "./connection.js";
export {
  ConnectFailed, ConnectionClosed, LocalProtocolError, RemoteProtocolError, RequestTimedOut,
  RoomClosed, RoomError, SourceLost, SourceReplaced, SourceRevoked, StreamOver, TimError,
} from "./errors.js";
export { nodeFigures, roomFigures, subscriberFigures } from "./figures.js";
export { Flag } from "./frames.js";
export {
  AuthMode, Capability, ContactState, DeliveryStatus, NodeState, Right, RoomMode, SubscriberState,
  TrackState,
} from "./messages.js";
export { isAccountName } from "./names.js";
export { formatRoomId, parseRoomId } from "./room_ids.js";
export { NOT_TAKEN, WHILE_AWAY } from "./seen.js";
export { Source } from "./source.js";
export { Subscription } from "./subscription.js";
