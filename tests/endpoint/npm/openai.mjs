// The npm package `openai`, unchanged: node openai.mjs URL [leave]
import assert from "node:assert/strict";
import { once } from "node:events";
import OpenAI from "openai";
import { hello, both, tools, schema, png } from "./asked.mjs";

const [url, leave] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "any text", maxRetries: 0 });
const [skilled, plain, embedder] = ["skilled:1b", "plain:270m", "embedder:latest"];
const ask = (body) => client.chat.completions.create({ messages: hello, temperature: 0, ...body });

async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

if (leave) {
  const stream = await ask({ model: plain, stream: true });
  for await (const chunk of stream) {
    console.log(chunk.id);
    await once(process.stdin, "data");
    stream.controller.abort();
    break;
  }
  process.exit(0);
}

const whole = await ask({ model: plain });
const chunks = await all(await ask({ model: plain, stream: true, stream_options: { include_usage: true } }));
const text = chunks.flatMap((chunk) => chunk.choices).map((choice) => choice.delta.content ?? "").join("");
assert.equal(text, whole.choices[0].message.content);
assert.ok(text);
assert.deepEqual(chunks.at(-1).usage, whole.usage);

const called = await client.chat.completions
  .stream({ model: skilled, messages: both, tools, reasoning_effort: "none" })
  .finalChatCompletion();
const message = called.choices[0].message;
assert.deepEqual(message.tool_calls.map((call) => call.function.name), ["weather", "time"]);
const results = message.tool_calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: "20" }));
const told = await ask({ model: skilled, messages: [...both, message, ...results], tools, reasoning_effort: "none" });
assert.ok(told.choices[0].message.content);

const thought = await all(await ask({ model: skilled, reasoning_effort: "high", stream: true }));
assert.ok(thought.some((chunk) => chunk.choices[0]?.delta.reasoning));
const image = { type: "image_url", image_url: { url: `data:image/png;base64,${png}` } };
const seen = await ask({ model: skilled, messages: [{ role: "user", content: [{ type: "text", text: "?" }, image] }] });
assert.ok(seen.choices[0].message.content);
const response_format = { type: "json_schema", json_schema: { name: "city", schema } };
assert.equal(typeof JSON.parse((await ask({ model: plain, response_format })).choices[0].message.content).people, "number");

const packed = await client.embeddings.create({ model: embedder, input: "a" });
const plainly = await client.embeddings.create({ model: embedder, input: "a", encoding_format: "float" });
assert.equal(packed.data[0].embedding.length, 768);
packed.data[0].embedding.forEach((value, at) => assert.ok(Math.abs(value - plainly.data[0].embedding[at]) < 1e-6));
assert.ok((await client.models.list()).data.some((model) => model.id === plain));
await assert.rejects(ask({ model: "nobody:has-it" }), (error) => error instanceof OpenAI.NotFoundError && error.status === 404);
console.log("ok");
