// Verify a RemoteDevAI webhook. Needs nothing but Node.js 18 or newer.
import { createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const TOLERANCE_SECONDS = 300;

// `body` is the Buffer as it came in (express.raw, not express.json); `headers` has lower-case
// names. While a secret is rotated give the old and the new one.
export function verify(secrets, headers, body, now = Date.now() / 1000) {
  const id = headers["webhook-id"] ?? "";
  const timestamp = headers["webhook-timestamp"] ?? "";
  if (id === "" || !/^[0-9]{1,12}$/.test(timestamp)) return false;
  if (Math.abs(now - Number(timestamp)) > TOLERANCE_SECONDS) return false;
  const content = Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]);
  const given = (headers["webhook-signature"] ?? "").split(" ").map((one) => Buffer.from(one));
  return secrets.some((secret) => {
    const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
    const expected = Buffer.from(
      "v1," + createHmac("sha256", key).update(content).digest("base64"),
    );
    return given.some((one) => one.length === expected.length && timingSafeEqual(one, expected));
  });
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const env = process.env;
  const headers = {
    "webhook-id": env.WEBHOOK_ID,
    "webhook-timestamp": env.WEBHOOK_TIMESTAMP,
    "webhook-signature": env.WEBHOOK_SIGNATURE,
  };
  const now = env.WEBHOOK_NOW === undefined ? undefined : Number(env.WEBHOOK_NOW);
  const isValid = verify(env.WEBHOOK_SECRET.split(" "), headers, readFileSync(0), now);
  process.exitCode = isValid ? 0 : 1;
}
