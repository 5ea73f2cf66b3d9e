// Reads signed requests, one JSON object a line, and writes 1 or 0 for each: the library's verdict.
import { createInterface } from "node:readline";
import { Webhook } from "standardwebhooks";

let verdicts = "";
for await (const line of createInterface({ input: process.stdin })) {
  const { secret, headers, body } = JSON.parse(line);
  try {
    const options = { jsonParse: false };
    new Webhook(secret).verify(Buffer.from(body, "base64"), headers, options);
    verdicts += "1";
  } catch {
    verdicts += "0";
  }
}
process.stdout.write(verdicts);
