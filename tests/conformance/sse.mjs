// What the graphql-sse client sees of our server in distinct connections mode, as one JSON object.
import { createClient } from "graphql-sse";

const [url, key] = process.argv.slice(2);

function connect(bearer) {
  return createClient({ url, headers: { authorization: `Bearer ${bearer}` }, retryAttempts: 0 });
}

function collect(client, query, variables) {
  return new Promise((resolve) => {
    const events = [];
    client.subscribe({ query, variables }, {
      next: (event) => events.push(event.errors ? event.errors[0].extensions.code : event.data),
      error: (error) => resolve({ events, error: error.response?.status ?? String(error) }),
      complete: () => resolve({ events }),
    });
  });
}

const client = connect(key);
console.log(JSON.stringify({
  query: await collect(client, "query($n: String) { hello(name: $n) }", { n: "sse" }),
  mutation: await collect(client, 'mutation { rename(name: "b") }'),
  subscription: await collect(client, "subscription { count(to: 3) { number } }"),
  typo: await collect(client, "subscription { nope }"),
  wrongKey: await collect(connect("sk-wrong"), "{ hello }"),
}));
client.dispose();
