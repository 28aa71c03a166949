"""Other protocols on the same gateway: agents that speak OpenAI's API work unchanged.

A door reads a request of its protocol into the input that GraphQL reads too, hands it to the gateway, and writes the answer in
its protocol. No rule about money, routing, limits or content stands here.
"""
