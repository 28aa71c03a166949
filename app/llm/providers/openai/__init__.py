"""OpenAI's Chat Completions and Embeddings APIs, also of compatible servers. The client alone imports the SDK."""
