"""OpenAI's Chat Completions and Embeddings APIs, also of compatible servers. Only the client imports the SDK."""
