"""Anthropic's Messages API: the request, the whole answer, the stream, and the client. Only the client imports the SDK."""
