"""Anthropic's Messages API: the request, the whole answer, the stream, and the client, which alone imports the SDK."""
