"""The audit trail, as the database's host has it."""
