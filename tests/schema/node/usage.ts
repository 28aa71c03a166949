// What a client writes against the generated types; it only has to compile.
import type { AskMutation, AskMutationVariables, SpendQuery } from "./generated/operations.ts";

export const ask: AskMutationVariables = { input: { messages: [{ role: "USER", text: "Hi" }], labels: [{ key: "team", value: "a" }] } };

export function answerOf(data: AskMutation): string {
  const result = data.completionCreate;
  if (!result) return "";
  switch (result.__typename) {
    case "Completion":
      return `${result.text ?? ""} (${result.costUsd ?? "price unknown"})`;
    case "BudgetExceeded":
      return `needs ${result.neededUsd}: ${result.message}`;
    default:
      return result.message;
  }
}

export function spendOf(data: SpendQuery): readonly string[] {
  return data.costs?.rows.nodes.map((row) => `${row.periodStart ?? "?"} ${row.model ?? "?"} ${row.costUsd}`) ?? [];
}
