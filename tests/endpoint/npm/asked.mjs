// What the clients ask: the same as in client_requests.py, which writes this file's values.
import { readFileSync } from "node:fs";

export const { hello, both, tools, schema, png } = JSON.parse(readFileSync(new URL("asked.json", import.meta.url)));
