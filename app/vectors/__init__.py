"""Collections of documents, and the stores that index them. PostgreSQL holds the documents; a store is only an index of them.

A hit of a store is shown only after it was read from PostgreSQL again: under the tenant, against the filter and with its hash.
So a store that is wrong, late or foreign can lose a hit, but never show one. Takes vectors and knows no provider. Imports db and
what is below; `app/retrieval` brings embeddings and stores together.
"""
