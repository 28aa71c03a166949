import type { CodegenConfig } from "@graphql-codegen/cli";

const config: CodegenConfig = {
  schema: "schema.graphql",
  documents: "operations.graphql",
  config: {
    strictScalars: true,
    scalars: { BigInt: "string", Cursor: "string", DateTime: "string", Decimal: "string", JSON: "unknown" },
  },
  generates: {
    "generated/schema.ts": { plugins: ["typescript"] },
    "generated/operations.ts": { plugins: ["typescript-operations"] },
  },
};

export default config;
