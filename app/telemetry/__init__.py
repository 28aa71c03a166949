"""What the process reports about itself: JSON logs, and traces of ended calls over OTLP.

`call_ended` is the record that others fill; `otlp` is loaded only when traces are configured. Imports `settings` and what is
below.
"""
