// Verifies requests with the official npm package. Reads JSON lines {secret, headers, body (base64)} from standard
// input, prints how many it accepted, and the first refusal.
import { createInterface } from "node:readline";
import { Webhook } from "standardwebhooks";

let accepted = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const { secret, headers, body } = JSON.parse(line);
  try {
    new Webhook(secret).verify(Buffer.from(body, "base64").toString("utf8"), headers);
    accepted += 1;
  } catch (error) {
    console.error(`${headers["webhook-id"]}: ${error}`);
    process.exit(1);
  }
}
console.log(accepted);
