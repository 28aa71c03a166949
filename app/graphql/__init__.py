"""GraphQL over HTTP, server-sent events and WebSocket: limits, documents, execution, errors. The only package of `app` that
imports Strawberry. It knows no domain: what fields mean is said in `schema` and `resolvers`.
"""
