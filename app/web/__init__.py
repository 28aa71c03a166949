"""HTTP below the application: uvicorn's protocols with our limits, capacity, request ids, security headers.

Imports `runtime` and `domain`. Nothing here knows GraphQL.
"""
