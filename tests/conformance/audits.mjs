// Prints what every audit of the GraphQL-over-HTTP suite found, as one JSON list.
import { auditServer } from "graphql-http";

const [url, key] = process.argv.slice(2);
const results = await auditServer({
  url,
  fetchFn: (address, init) => fetch(address, { ...init, headers: { ...init?.headers, authorization: `Bearer ${key}` } }),
});
console.log(JSON.stringify(results.map(({ id, name, status, reason }) => ({ id, name, status, reason }))));
