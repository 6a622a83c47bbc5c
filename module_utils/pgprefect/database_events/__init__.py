"""The outbox of database events, and the relay that sends what is in it."""
