// An HTTP/2 receiver that does what its path says; writes its port, then each request's headers.
import { readFileSync } from "node:fs";
import { constants, createSecureServer } from "node:http2";

const pem = readFileSync(process.argv[2]);
const settings = { maxConcurrentStreams: Number(process.argv[3] ?? 100) };
const server = createSecureServer({ key: pem, cert: pem, maxSendHeaderBlockLength: 1 << 20, settings });
const behaviours = {
  "/hang": () => {},
  "/reset": (stream) => stream.close(constants.NGHTTP2_INTERNAL_ERROR),
  "/goaway": (stream) => stream.session.goaway(constants.NGHTTP2_ENHANCE_YOUR_CALM),
  "/destroy": (stream) => stream.session.destroy(),
  "/cut": (stream) => {
    stream.respond({ ":status": 200, "content-length": "9" });
    stream.write("ab", () => stream.close(constants.NGHTTP2_INTERNAL_ERROR));
  },
  "/early": (stream) => {
    stream.additionalHeaders({ ":status": 103, link: "</x>" });
    stream.respond({ ":status": 201, "x-final": "yes" });
    stream.end("ok");
  },
  "/bytes": (stream) => {
    stream.respond({ ":status": 200 });
    const more = (left) => (left ? stream.write("x", () => more(left - 1)) : stream.end());
    more(20_000);
  },
  "/redirect": (stream) => stream.respond({ ":status": 307, location: "/ok" }, { endStream: true }),
  "/headers": (stream) => stream.respond({ "x-big": "y".repeat(90_000) }, { endStream: true }),
};
server.on("sessionError", () => {});
server.on("stream", (stream, headers) => {
  stream.on("error", () => {});
  process.stdout.write(JSON.stringify(Object.entries(headers)) + "\n");
  const ok = () => {
    stream.respond({ ":status": 200 });
    stream.end("ok");
  };
  (behaviours[headers[":path"]] ?? ok)(stream);
});
server.listen(0, "127.0.0.1", () => process.stdout.write(server.address().port + "\n"));
