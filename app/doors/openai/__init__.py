"""OpenAI's API under `/v1`: chat completions, embeddings, the list of models."""
