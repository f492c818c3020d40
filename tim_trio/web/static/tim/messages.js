// Every control frame with its fields, in the order of the wire.
//
// Source: protocol.md, sections 5 and 13.

import { LocalProtocolError } from "./errors.js";
import {
  Reader, UnreadableFields, Writer, bigU64, blob, bool, choice, listOf, record, room, secret, text,
  token, u16, u32, u64, u8,
} from "./wire.js";

export const VERSION = 1;
export const MAGIC = 0x54494d54; // "TIMT"
export const CONTROL_HEADER_BYTES = 12;
export const ANSWER_BIT = 0x80;
/** Credit that never runs out. */
export const UNLIMITED_CREDIT = Number.MAX_SAFE_INTEGER;

export const Capability = Object.freeze({
  reliable: 0x01, accounts: 0x02, accountStreams: 0x04, links: 0x08, operator: 0x10,
});
export const Right = Object.freeze({ operator: 0x01, registerRooms: 0x02 });
export const TrackState = Object.freeze({ ended: 0x01, keyed: 0x02, init: 0x04, cachedGroup: 0x08 });
export const AuthMode = Object.freeze({ open: 0, accounts: 1, token: 2 });
export const AuthMethod = Object.freeze({
  name: 0, password: 1, session: 2, signedToken: 3, node: 4,
});
export const RoomMode = Object.freeze({ live: 0, reliable: 1 });
export const StartFrom = Object.freeze({ group: 0, live: 1 });
export const ListScope = Object.freeze({ mine: 0, all: 1 });
export const BanKind = Object.freeze({ room: 0, account: 1 });
export const ContactAction = Object.freeze({
  ask: 0, accept: 1, decline: 2, remove: 3, block: 4, unblock: 5,
});
export const ContactState = Object.freeze({
  none: 0, askedByMe: 1, askedByThem: 2, contact: 3, blocked: 4,
});
export const DeliveryStatus = Object.freeze({
  delivered: 0, offline: 1, refused: 2, unknown: 3, busy: 4,
});
export const SubscriberState = Object.freeze({
  lagging: 0x01, waitsForKey: 0x02, holdsUp: 0x04, node: 0x08,
});
export const NodeState = Object.freeze({ draining: 0x01, linked: 0x02 });
export const Policy = Object.freeze({ anyone: 0, contacts: 1 });

const trackInfo = record({ track: u8, state: u8, lastSeq: u64 });
const sourceInfo = record({ source: u32, account: text, left: bool, tracks: listOf(trackInfo) });
const roomInfo = record({
  room, mode: choice(1), gatherMs: u16, idleTimeoutS: u32, creator: text, ageMs: u64,
  viewers: u32, frames: u64, bytes: u64, sources: listOf(sourceInfo), granted: listOf(text),
});
const roomEntry = record({
  room, mode: choice(1), creator: text, role: u8, viewers: u32, sources: u16,
});
const delivery = record({ account: text, status: u8, devices: u16 });
const contact = record({ account: text, state: u8 });

const figure = record({ name: text, value: u64 });
const nodeEntry = record({ node: text, address: text, state: u8 });
const roomLoad = record({
  room, mode: choice(1), creator: text, viewers: u32, sources: u16, frames: u64, bytes: u64,
  lagging: u32, gaps: u64, lost: u64, nodes: listOf(text),
});
const subscriberLoad = record({
  number: u64, account: text, state: u8, ageMs: u64, frames: u64, bytes: u64, pendingBytes: u64,
  pendingMs: u32, gaps: u64, lost: u64,
});

/** @typedef {import("./wire.js").ValueOf<typeof trackInfo>} TrackInfo */
/** @typedef {import("./wire.js").ValueOf<typeof sourceInfo>} SourceInfo */
/** @typedef {import("./wire.js").ValueOf<typeof roomInfo>} RoomInfo */
/** @typedef {import("./wire.js").ValueOf<typeof roomEntry>} RoomEntry */
/** @typedef {import("./wire.js").ValueOf<typeof delivery>} Delivery */
/** @typedef {import("./wire.js").ValueOf<typeof contact>} ContactEntry */
/** @typedef {import("./wire.js").ValueOf<typeof nodeEntry>} NodeEntry */
/** @typedef {import("./wire.js").ValueOf<typeof roomLoad>} RoomLoad */
/** @typedef {import("./wire.js").ValueOf<typeof subscriberLoad>} SubscriberLoad */

/**
 * @template {import("./wire.js").Field<any>} C
 * @param {number} type
 * @param {string} name
 * @param {C} codec
 */
const message = (type, name, codec) => Object.freeze({ type, name, codec });

/**
 * A kind of control frame; `T` are its fields.
 *
 * @template T
 * @typedef {{ type: number, name: string, codec: import("./wire.js").Field<T> }} Message
 */

/**
 * @template M
 * @typedef {M extends Message<infer T> ? T : never} FieldsOf
 */

const nothing = record({});
const inRoom = record({ room });
const aboutAccount = record({ room, account: text });

export const Hello = message(0x01, "HELLO", record({
  magic: u32, minVersion: u8, maxVersion: u8, capabilities: u32, agent: text,
}));
export const Welcome = message(0x81, "WELCOME", record({
  version: u8, capabilities: u32, agent: text, node: text, authMode: choice(2),
  maxFrameBytes: u32, maxInitBytes: u32, backlogBytes: u32, backlogAgeMs: u32,
  stallTimeoutMs: u32, pingIntervalMs: u32, maxSubscriptions: u16,
}));
export const Authenticate = message(0x02, "AUTHENTICATE", record({
  method: choice(4), account: text, secret, device: text,
}));
export const AuthenticateAnswer = message(0x82, "AUTHENTICATE_ANSWER", record({
  account: text, rights: u8, sessionToken: secret, expiresMs: u64,
}));
export const Ping = message(0x03, "PING", record({ stamp: bigU64 }));
export const Pong = message(0x83, "PONG", record({ stamp: bigU64 }));
export const Close = message(0x04, "CLOSE", record({
  code: u16, retry: bool, retryAfterMs: u32, text,
}));

export const RegisterRoom = message(0x10, "REGISTER_ROOM", record({
  mode: choice(1), gatherMs: u16, idleTimeoutS: u32,
}));
export const RegisterRoomAnswer = message(0x90, "REGISTER_ROOM_ANSWER", inRoom);
export const RemoveRoom = message(0x11, "REMOVE_ROOM", inRoom);
export const RemoveRoomAnswer = message(0x91, "REMOVE_ROOM_ANSWER", nothing);
export const Grant = message(0x12, "GRANT", aboutAccount);
export const GrantAnswer = message(0x92, "GRANT_ANSWER", nothing);
export const Revoke = message(0x13, "REVOKE", aboutAccount);
export const RevokeAnswer = message(0x93, "REVOKE_ANSWER", nothing);
export const Subscribe = message(0x14, "SUBSCRIBE", record({
  room, from: choice(1), credit: u64,
}));
export const SubscribeAnswer = message(0x94, "SUBSCRIBE_ANSWER", record({
  room, mode: choice(1), gatherMs: u16, sources: listOf(sourceInfo), path: listOf(text),
}));
export const Unsubscribe = message(0x15, "UNSUBSCRIBE", inRoom);
export const UnsubscribeAnswer = message(0x95, "UNSUBSCRIBE_ANSWER", nothing);
export const Publish = message(0x16, "PUBLISH", record({ room, token }));
export const PublishAnswer = message(0x96, "PUBLISH_ANSWER", record({
  room, source: u32, mode: choice(1), received: u64, credit: u64, tracks: listOf(trackInfo),
}));
export const Unpublish = message(0x17, "UNPUBLISH", record({ room, source: u32 }));
export const UnpublishAnswer = message(0x97, "UNPUBLISH_ANSWER", record({
  forwarded: u64, discarded: u64,
}));
export const GetRoomInfo = message(0x18, "ROOM_INFO", inRoom);
export const RoomInfoAnswer = message(0x98, "ROOM_INFO_ANSWER", record({ roomInfo }));
export const ListRooms = message(0x19, "LIST_ROOMS", record({
  scope: choice(1), after: bigU64, limit: u16,
}));
export const ListRoomsAnswer = message(0x99, "LIST_ROOMS_ANSWER", record({
  more: bool, rooms: listOf(roomEntry),
}));
export const AskToPush = message(0x1a, "ASK_TO_PUSH", record({ room, message: text }));
export const AskToPushAnswer = message(0x9a, "ASK_TO_PUSH_ANSWER", record({ told: u16 }));
export const Credit = message(0x1b, "CREDIT", record({ room, source: u32, limit: u64 }));
export const Ban = message(0x1c, "BAN", record({
  kind: choice(1), room: bigU64, account: text, reason: text,
}));
export const BanAnswer = message(0x9c, "BAN_ANSWER", nothing);
export const NodeFigures = message(0x1d, "NODE_FIGURES", record({ node: text }));
export const NodeFiguresAnswer = message(0x9d, "NODE_FIGURES_ANSWER", record({
  node: text, uptimeMs: u64, figures: listOf(figure), nodes: listOf(nodeEntry),
}));
export const RoomFigures = message(0x1e, "ROOM_FIGURES", record({
  node: text, after: bigU64, limit: u16,
}));
export const RoomFiguresAnswer = message(0x9e, "ROOM_FIGURES_ANSWER", record({
  node: text, uptimeMs: u64, more: bool, rooms: listOf(roomLoad),
}));
export const SubscriberFigures = message(0x1f, "SUBSCRIBER_FIGURES", record({
  node: text, room, limit: u16,
}));
export const SubscriberFiguresAnswer = message(0x9f, "SUBSCRIBER_FIGURES_ANSWER", record({
  node: text, uptimeMs: u64, total: u32, behind: u32, subscribers: listOf(subscriberLoad),
}));

export const AccountSend = message(0x20, "ACCOUNT_SEND", record({
  receivers: listOf(text), kind: u16, payload: blob,
}));
export const AccountSendAnswer = message(0xa0, "ACCOUNT_SEND_ANSWER", record({
  deliveries: listOf(delivery),
}));
export const Contact = message(0x21, "CONTACT", record({ action: choice(5), account: text }));
export const ContactAnswer = message(0xa1, "CONTACT_ANSWER", record({ state: u8 }));
export const ListContacts = message(0x22, "LIST_CONTACTS", record({ after: text, limit: u16 }));
export const ListContactsAnswer = message(0xa2, "LIST_CONTACTS_ANSWER", record({
  more: bool, contacts: listOf(contact),
}));
export const SetPolicy = message(0x23, "SET_POLICY", record({ policy: choice(1) }));
export const SetPolicyAnswer = message(0xa3, "SET_POLICY_ANSWER", nothing);
export const RegisterAccount = message(0x24, "REGISTER_ACCOUNT", record({
  account: text, password: secret, invitation: secret,
}));
export const RegisterAccountAnswer = message(0xa4, "REGISTER_ACCOUNT_ANSWER", record({
  account: text,
}));
export const ChangePassword = message(0x25, "CHANGE_PASSWORD", record({
  old: secret, new: secret,
}));
export const ChangePasswordAnswer = message(0xa5, "CHANGE_PASSWORD_ANSWER", nothing);
export const GetPolicy = message(0x26, "GET_POLICY", nothing);
export const GetPolicyAnswer = message(0xa6, "GET_POLICY_ANSWER", record({ policy: u8 }));

// What nodes say to one another. No page sends these; they are here so that
// the codec is whole.
export const Link = message(0x30, "LINK", record({ node: text, incarnation: bigU64 }));
export const LinkAnswer = message(0xb0, "LINK_ANSWER", record({ node: text, incarnation: bigU64 }));
export const LinkSubscribe = message(0x31, "LINK_SUBSCRIBE", record({
  room, credit: u64, path: listOf(text),
}));
export const LinkSubscribeAnswer = message(0xb1, "LINK_SUBSCRIBE_ANSWER", record({
  outcome: choice(1), address: text, mode: choice(1), sources: listOf(sourceInfo),
  path: listOf(text),
}));
export const LinkPath = message(0x32, "LINK_PATH", record({ room, path: listOf(text) }));
export const LinkViewers = message(0x33, "LINK_VIEWERS", record({ room, viewers: u32 }));
export const Forward = message(0x34, "FORWARD", record({
  account: text, frame: blob, rights: u8,
}));
export const ForwardAnswer = message(0xb4, "FORWARD_ANSWER", record({ frame: blob }));
export const LinkSource = message(0x35, "LINK_SOURCE", record({
  room, source: u32, account: text, node: text, epoch: u32, tracks: listOf(trackInfo),
}));
export const LinkInvite = message(0x36, "LINK_INVITE", record({ room, warm: bool }));
export const LinkExpelled = message(0x37, "LINK_EXPELLED", record({ incarnation: bigU64 }));

export const RoomClosedEvent = message(0x60, "ROOM_CLOSED", record({ room, reason: u8, text }));
export const SourceJoined = message(0x61, "SOURCE_JOINED", record({
  room, source: u32, account: text,
}));
export const SourceLeft = message(0x62, "SOURCE_LEFT", record({ room, source: u32, reason: u8 }));
export const Gap = message(0x63, "GAP", record({
  room, source: u32, track: u8, firstSeq: u64, lastSeq: u64, reason: u8,
}));
export const PushRevoked = message(0x64, "PUSH_REVOKED", record({ room, source: u32, reason: u8 }));
export const Replaced = message(0x65, "REPLACED", record({ room, source: u32 }));
export const Viewers = message(0x66, "VIEWERS", record({ room, viewers: u32 }));
export const AccountStream = message(0x67, "ACCOUNT_STREAM", record({
  account: text, kind: u16, payload: blob,
}));
export const GoAway = message(0x68, "GO_AWAY", record({ reason: u8, address: text, spreadMs: u32 }));
export const PushAsked = message(0x69, "PUSH_ASKED", record({ room, account: text, message: text }));
export const PushGranted = message(0x6a, "PUSH_GRANTED", inRoom);
export const ContactChanged = message(0x6b, "CONTACT_CHANGED", record({ account: text, state: u8 }));
export const OtherNodes = message(0x6c, "OTHER_NODES", record({ addresses: listOf(text) }));

/** Of an entry of LIST_ROOMS, where nobody could say. */
export const UNKNOWN_VIEWERS = 0xffff_ffff;
export const UNKNOWN_SOURCES = 0xffff;

export const ErrorAnswer = message(0x80, "ERROR", record({
  requestType: u8, code: u16, retry: bool, retryAfterMs: u32, text,
}));

/** @type {Map<number, Message<any>>} */
export const MESSAGES = new Map([
  Hello, Welcome, Authenticate, AuthenticateAnswer, Ping, Pong, Close,
  RegisterRoom, RegisterRoomAnswer, RemoveRoom, RemoveRoomAnswer, Grant, GrantAnswer,
  Revoke, RevokeAnswer, Subscribe, SubscribeAnswer, Unsubscribe, UnsubscribeAnswer,
  Publish, PublishAnswer, Unpublish, UnpublishAnswer, GetRoomInfo, RoomInfoAnswer,
  ListRooms, ListRoomsAnswer, AskToPush, AskToPushAnswer, Credit, Ban, BanAnswer,
  NodeFigures, NodeFiguresAnswer, RoomFigures, RoomFiguresAnswer, SubscriberFigures,
  SubscriberFiguresAnswer,
  AccountSend, AccountSendAnswer, Contact, ContactAnswer, ListContacts, ListContactsAnswer,
  SetPolicy, SetPolicyAnswer, RegisterAccount, RegisterAccountAnswer,
  ChangePassword, ChangePasswordAnswer, GetPolicy, GetPolicyAnswer,
  Link, LinkAnswer, LinkSubscribe, LinkSubscribeAnswer, LinkPath, LinkViewers,
  Forward, ForwardAnswer, LinkSource, LinkInvite, LinkExpelled,
  RoomClosedEvent, SourceJoined, SourceLeft, Gap, PushRevoked, Replaced, Viewers,
  AccountStream, GoAway, PushAsked, PushGranted, ContactChanged, OtherNodes,
  ErrorAnswer,
].map((each) => [each.type, each]));

/**
 * Return the whole frame of a message.
 *
 * @template T
 * @param {Message<T>} kind
 * @param {T} fields
 * @param {number} [requestId]
 * @returns {Uint8Array<ArrayBuffer>}
 * @throws {LocalProtocolError} a field does not fit its type
 */
export function encode(kind, fields, requestId = 0) {
  const writer = new Writer();
  writer.reserve(CONTROL_HEADER_BYTES);
  if (!Number.isInteger(requestId) || requestId < 0 || requestId > 0xffff_ffff) {
    throw new LocalProtocolError(`request_id ${requestId} does not fit u32`);
  }
  kind.codec.write(writer, fields);
  writer.view.setUint32(0, writer.size - 4);
  writer.view.setUint8(4, kind.type);
  writer.view.setUint32(8, requestId);
  return writer.bytes.slice(0, writer.size);
}

/**
 * Return the fields of a control frame. Bytes behind the last known field are ignored.
 *
 * @template T
 * @param {Message<T>} kind
 * @param {Uint8Array} fields
 * @returns {T}
 * @throws {UnreadableFields} they do not have the layout
 */
export function decode(kind, fields) {
  return kind.codec.read(new Reader(fields));
}

export { UnreadableFields };
