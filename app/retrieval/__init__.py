"""Embeddings and stores together: documents that come in, searches, and answers that cite what they rest on.

Imports `gateway`, `vectors` and what is below.
"""
