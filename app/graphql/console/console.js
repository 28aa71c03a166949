"use strict";

const EXAMPLES = [
  {
    name: "A first completion",
    query: `mutation FirstCompletion($input: CompletionInput!) {
  completionCreate(input: $input) {
    ... on Completion {
      id
      status
      text
      provider
      model
      usage { inputTokens outputTokens }
      costUsd
      latencyMs
    }
    ... on Problem { code message }
  }
}
`,
    variables: {
      input: {
        messages: [{ role: "USER", text: "Say hello in one short sentence." }],
        maxOutputTokens: 64,
      },
    },
  },
  {
    name: "A collection with documents",
    query: `mutation Documents($collection: CollectionInput!, $documents: DocumentsUpsertInput!) {
  collectionCreate(input: $collection) {
    ... on Collection { name store embeddingModel dimensions }
    ... on Problem { code message }
  }
  documentsUpsert(input: $documents) {
    ... on DocumentsUpserted { upsertedCount unchangedCount costUsd failures { id problem { message } } }
    ... on Problem { code message }
  }
}
`,
    variables: {
      collection: { name: "console" },
      documents: {
        collection: "console",
        documents: [
          { id: "boilers", text: "Steam is made by two boilers. Only the older one burns oil in winter.", metadata: { year: 2026 } },
          { id: "freight", text: "Freight moves by rail. It emits a quarter of what the road emits.", metadata: { year: 2025 } },
        ],
      },
    },
  },
  {
    name: "A search",
    query: `query Search($input: SearchInput!) {
  search(input: $input) {
    ... on SearchHits { hits { id score text metadata provenance { verified } } costUsd }
    ... on Problem { code message }
  }
}
`,
    variables: {
      input: {
        collection: "console",
        text: "What burns oil?",
        mode: "HYBRID",
        filter: { where: { field: "year", op: "GTE", value: 2025 } },
      },
    },
  },
  {
    name: "An answer with citations",
    query: `mutation Answer($input: AnswerInput!) {
  answerCreate(input: $input) {
    ... on Answer {
      text
      grounded
      citations { quote hit { id score } }
      completion { model costUsd }
    }
    ... on Problem { code message }
  }
}
`,
    variables: { input: { question: "Which boiler burns oil in winter?", search: { collection: "console" } } },
  },
  {
    name: "Who am I",
    query: `query Viewer {
  viewer {
    tenant
    keyName
    scopes
    allowance { capacity remaining restoresPerSecond }
  }
}
`,
    variables: {},
  },
  {
    name: "Costs by model",
    query: `query CostsByModel($filter: CostFilter!) {
  costs(filter: $filter, groupBy: [PROVIDER, MODEL], first: 20) {
    asOf
    totals { costUsd requests inputTokens outputTokens unpricedRequests }
    rows { nodes { provider model costUsd requests } }
  }
}
`,
    variables: () => {
      const to = new Date(Date.now() + 60_000);
      const from = new Date(to.getTime() - 30 * 24 * 3600 * 1000);
      return { filter: { period: { from: from.toISOString(), to: to.toISOString() } } };
    },
  },
  {
    name: "Providers and routes",
    query: `query Providers {
  providers { name kind health models { name inputPriceUsd outputPriceUsd } }
  routes { name strategy targets }
}
`,
    variables: {},
  },
];

const KEY_STORED_AS = "greenlang.key";
const element = (id) => document.getElementById(id);
const [key, query, variables, result, status] = ["key", "query", "variables", "result", "status"].map(element);
const run = element("run");
const problem = element("variables-problem");
let resultText = "";

function showExample(index) {
  const example = EXAMPLES[index];
  const values = typeof example.variables === "function" ? example.variables() : example.variables;
  query.value = example.query;
  variables.value = JSON.stringify(values, null, 2);
  for (const area of [query, variables]) area.setSelectionRange(0, 0);
}

/** Colours JSON with text nodes only, so text from a server or a model never becomes markup. */
function showJson(text) {
  const pieces = /("(?:\\.|[^"\\])*")(\s*:)?|\b(true|false|null)\b|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)/g;
  const fragment = document.createDocumentFragment();
  let from = 0;
  for (const match of text.matchAll(pieces)) {
    fragment.append(text.slice(from, match.index));
    const span = document.createElement("span");
    span.className = match[2] ? "name" : match[1] ? "string" : match[3] ? "word" : "number";
    span.textContent = match[1] ?? match[0];
    fragment.append(span, match[2] ?? "");
    from = match.index + match[0].length;
  }
  fragment.append(text.slice(from));
  result.replaceChildren(fragment);
  resultText = text;
}

function say(text, failed = false) {
  status.textContent = text;
  status.classList.toggle("failed", failed);
}

function readVariables() {
  problem.hidden = true;
  if (!variables.value.trim()) return {};
  try {
    return JSON.parse(variables.value);
  } catch (error) {
    problem.textContent = `The variables are not JSON: ${error.message}`;
    problem.hidden = false;
    variables.focus();
    return undefined;
  }
}

function headers() {
  const found = { "content-type": "application/json", accept: "application/graphql-response+json, application/json;q=0.9" };
  if (key.value.trim()) found.authorization = `Bearer ${key.value.trim()}`;
  return found;
}

async function execute() {
  const values = readVariables();
  if (values === undefined || run.disabled) return;
  run.disabled = true;
  say("running …");
  const started = performance.now();
  try {
    const response = await fetch("/graphql", {
      method: "POST",
      headers: headers(),
      body: JSON.stringify({ query: query.value, variables: values }),
    });
    const text = await response.text();
    const took = Math.round(performance.now() - started);
    let shown = text;
    let failed = !response.ok;
    try {
      const parsed = JSON.parse(text);
      failed ||= Array.isArray(parsed.errors);
      shown = JSON.stringify(parsed, null, 2);
    } catch { /* not JSON: shown unchanged */ }
    showJson(shown);
    say(`${response.status} ${response.statusText} · ${took} ms${failed && response.ok ? " · with errors" : ""}`.replace("  ", " "), failed);
    if (response.status === 401) key.focus();
  } catch (error) {
    showJson("");
    say(`The server did not answer: ${error.message}`, true);
  } finally {
    run.disabled = false;
  }
}

/** In production the SDL needs the key, and a link cannot send one. So the SDL is fetched here and shown. */
async function openSchema(event) {
  event.preventDefault();
  const response = await fetch("/graphql/schema.graphql", { headers: headers() });
  const text = await response.text();
  showJson(text);
  say(response.ok ? "This is the schema." : `${response.status}: the schema needs a valid key, in production a key with ADMIN.`, !response.ok);
}

EXAMPLES.forEach((example, index) => element("examples").append(new Option(example.name, String(index))));
element("examples").addEventListener("change", (event) => showExample(Number(event.target.value)));
key.value = sessionStorage.getItem(KEY_STORED_AS) ?? "";
key.addEventListener("input", () => sessionStorage.setItem(KEY_STORED_AS, key.value.trim()));
element("key-form").addEventListener("submit", (event) => { event.preventDefault(); execute(); });
element("reveal").addEventListener("click", (event) => {
  const shown = key.type === "text";
  key.type = shown ? "password" : "text";
  event.target.textContent = shown ? "Show" : "Hide";
  event.target.setAttribute("aria-pressed", String(!shown));
});
element("schema-link").addEventListener("click", openSchema);
element("copy").addEventListener("click", async () => { await navigator.clipboard.writeText(resultText); say("copied"); });
run.addEventListener("click", execute);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    execute();
  }
});
showExample(0);
showJson("Press Run, or Ctrl+Enter.");
(key.value ? query : key).focus();
