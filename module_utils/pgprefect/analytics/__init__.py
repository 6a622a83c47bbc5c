"""What the history of the runs says: changes between two windows, unreliable flows, costs, critical paths, reports."""
