"""What the process reports about itself: JSON logs, and traces of ended calls over OTLP.

`call_ended` is the record that other packages fill. `otlp` is loaded only if traces are configured. Imports `settings` and what
is below.
"""
