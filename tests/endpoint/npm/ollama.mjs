// The npm package `ollama`, unchanged: node ollama.mjs URL [leave]
import assert from "node:assert/strict";
import { once } from "node:events";
import { Ollama } from "ollama";
import { hello, both, tools, schema, png } from "./asked.mjs";

const [url, leave] = process.argv.slice(2);
const client = new Ollama({ host: url });
const [skilled, plain, embedder] = ["skilled:1b", "plain:270m", "embedder:latest"];
const options = { temperature: 0 };

async function all(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  assert.equal(parts.filter((part) => part.done).length, 1);
  return parts;
}

if (leave) {
  const stream = await client.chat({ model: plain, messages: hello, stream: true });
  for await (const part of stream) {
    console.log(part.message.content);
    await once(process.stdin, "data");
    stream.abort();
    break;
  }
  process.exit(0);
}

const whole = await client.chat({ model: plain, messages: hello, options });
const parts = await all(await client.chat({ model: plain, messages: hello, options, stream: true }));
assert.equal(parts.map((part) => part.message.content).join(""), whole.message.content);
assert.ok(whole.message.content);
assert.equal(parts.at(-1).done_reason, "stop");

const called = await client.chat({ model: skilled, messages: both, tools, think: false });
const calls = called.message.tool_calls;
assert.deepEqual(calls.map((call) => call.function.name), ["weather", "time"]);
const results = calls.map((call) => ({ role: "tool", tool_name: call.function.name, content: "20" }));
const told = await client.chat({ model: skilled, messages: [...both, called.message, ...results], tools, think: false });
assert.ok(told.message.content);

const thought = await all(await client.chat({ model: skilled, messages: hello, think: true, stream: true }));
assert.ok(thought.some((part) => part.message.thinking));
const seen = await client.chat({ model: skilled, messages: [{ role: "user", content: "?", images: [png] }] });
assert.ok(seen.message.content);
const city = JSON.parse((await client.chat({ model: plain, messages: hello, format: schema })).message.content);
assert.equal(typeof city.people, "number");

assert.equal((await client.embed({ model: embedder, input: ["a", "b"] })).embeddings.length, 2);
assert.ok((await client.generate({ model: plain, prompt: "Once" })).response);
assert.ok((await client.list()).models.some((row) => row.model === plain));
assert.ok((await client.show({ model: skilled })).capabilities.includes("tools"));
assert.ok(Array.isArray((await client.ps()).models));
await assert.rejects(client.chat({ model: "nobody:has-it", messages: hello }), { name: "ResponseError", status_code: 404 });
console.log("ok");
