"""Only what the paper printed: its numbers, the shapes of its tables, their rendering and plots."""
