// A relay as its author would write it with the ws library.
//
// One publisher over TCP, each frame with its length before it; every subscriber gets
// each frame as one message.

import { createServer } from "node:net";
import { WebSocketServer } from "ws";

const subscribers = new Set();

const tcp = createServer({ noDelay: true }, (socket) => {
  let received = Buffer.alloc(0);
  let greeted = false;
  socket.on("error", () => {});
  socket.on("data", (data) => {
    if (!greeted) {
      greeted = true;
      socket.write("+");
      data = data.subarray(1);
    }
    received = received.length ? Buffer.concat([received, data]) : data;
    let at = 0;
    while (received.length - at >= 4) {
      const length = received.readUInt32BE(at);
      if (received.length - at < 4 + length) break;
      const frame = received.subarray(at + 4, at + 4 + length);
      for (const subscriber of subscribers) subscriber.send(frame, { binary: true });
      at += 4 + length;
    }
    received = received.subarray(at);
  });
});

const web = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: false });
web.on("connection", (socket) => {
  socket.on("error", () => {});
  socket.on("close", () => subscribers.delete(socket));
  socket.once("message", () => {
    subscribers.add(socket);
    socket.send("+", { binary: true });
  });
});

web.on("listening", () =>
  tcp.listen(0, "127.0.0.1", () => {
    console.log(`listening tcp 127.0.0.1:${tcp.address().port}`);
    console.log(`listening web 127.0.0.1:${web.address().port}`);
  }),
);
