// What the graphql-ws client sees of our server, as one JSON object.
import { createClient } from "graphql-ws";
import WebSocket from "ws";

const [url, key] = process.argv.slice(2);
const closed = [];

function connect(bearer) {
  return createClient({
    url,
    webSocketImpl: WebSocket,
    connectionParams: { authorization: `Bearer ${bearer}` },
    retryAttempts: 0,
    on: { closed: (event) => closed.push(event.code) },
  });
}

function collect(client, query, variables) {
  return new Promise((resolve) => {
    const events = [];
    client.subscribe({ query, variables }, {
      next: (event) => events.push(event.data ?? event),
      error: (error) => resolve({ events, error: Array.isArray(error) ? error[0].extensions.code : `closed ${error.code}` }),
      complete: () => resolve({ events }),
    });
  });
}

const client = connect(key);
const slow = collect(client, "subscription { count(to: 3, wait: 0.1) { number } }");
const found = {
  query: await collect(client, "query($n: String) { hello(name: $n) }", { n: "ws" }),
  mutation: await collect(client, 'mutation { rename(name: "b") }'),
  typo: await collect(client, "subscription { nope }"),
  syntax: await collect(client, "subscription {"),
  slow: await slow,
};
await client.dispose();
found.wrongKey = await collect(connect("sk-wrong"), "{ hello }");
found.closed = closed;
console.log(JSON.stringify(found));
