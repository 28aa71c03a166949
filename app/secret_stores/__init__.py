"""Where secrets come from besides the environment and files (Vault, AWS), and what happens when a value changes.

`reader` reads the values of references, with one adapter a store (`vault`, `aws`). `first_values` reads them before a start,
`watch` again and again in each server process.
"""
