// The little protocol (see little_protocol.py) on the npm package ws.

import { STATUS_CODES, createServer } from "node:http";
import { parseArgs } from "node:util";
import { WebSocketServer } from "ws";

const SUBPROTOCOLS = ["chat.v2", "chat.v1"];
const { values } = parseArgs({
  options: { host: { type: "string", default: "127.0.0.1" }, port: { type: "string", default: "0" } },
});

const server = createServer();
const webSockets = new WebSocketServer({
  noServer: true,
  perMessageDeflate: { threshold: 0 },
  maxPayload: 64 * 2 ** 20,
  handleProtocols: (offered) => SUBPROTOCOLS.find((name) => offered.has(name)) ?? false,
});

function answer(socket, request, text) {
  const space = text.indexOf(" ");
  const command = space < 0 ? text : text.slice(0, space);
  const rest = space < 0 ? "" : text.slice(space + 1);
  switch (command) {
    case "!close": {
      const end = rest.indexOf(" ");
      const code = end < 0 ? rest : rest.slice(0, end);
      socket.close(Number(code), end < 0 ? "" : rest.slice(end + 1));
      break;
    }
    case "!abort":
      socket.terminate();
      break;
    case "!count":
      for (let number = 0; number < Number(rest); number += 1) socket.send(String(number));
      break;
    case "!subprotocol":
      socket.send(socket.protocol);
      break;
    case "!headers":
      socket.send(request.headers[rest.trim().toLowerCase()] ?? "");
      break;
    case "!big":
      socket.send("x".repeat(Number(rest)));
      break;
    case "!fragment":
      socket.send("frag", { fin: false });
      socket.send("men", { fin: false });
      socket.send("ted", { fin: true });
      break;
    default:
      socket.send(text);
  }
}

server.on("upgrade", (request, stream, head) => {
  const path = new URL(request.url, "http://127.0.0.1").pathname;
  if (path.startsWith("/refuse/")) {
    const status = Number(path.slice("/refuse/".length));
    const retry = status === 429 || status === 503 ? "Retry-After: 7\r\n" : "";
    stream.end(
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${retry}Content-Length: 0\r\nConnection: close\r\n\r\n`,
    );
    return;
  }
  webSockets.handleUpgrade(request, stream, head, (socket) => {
    socket.on("error", () => {}); // a peer that breaks the protocol ends its own connection only
    socket.on("message", (data, isBinary) => {
      if (isBinary) socket.send(data, { binary: true });
      else answer(socket, request, data.toString());
    });
  });
});

process.on("SIGTERM", () => {
  for (const socket of webSockets.clients) socket.close(1001, "server shutdown");
  server.close(() => process.exit(0));
  setTimeout(() => process.exit(0), 1000).unref();
});

server.listen(Number(values.port), values.host, 512, () => {
  console.log(JSON.stringify({ port: server.address().port, pid: process.pid }));
});
