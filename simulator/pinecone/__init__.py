"""A stand-in for Pinecone over real HTTP, in a process of its own: `python -m simulator.pinecone`.

It speaks the wire protocol of the API version 2026-07 as the SDK `pinecone` 10 uses it, and refuses what the real service
refuses. Everything is in memory.
"""
