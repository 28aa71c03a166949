"""GraphQL over HTTP, server-sent events and WebSocket: limits, documents, execution, errors.

The only package of `app` that imports Strawberry. It knows no domain; `schema` and `resolvers` define what fields mean.
"""
