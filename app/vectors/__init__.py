"""Documents cut into chunks, the stores that index them, and the quotes of answers. Takes vectors and knows no provider.

Imports events, db and what is below. What brings embeddings and stores together lives above, in `app.gateway`.
"""
