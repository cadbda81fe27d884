"""Few-shot tasks from opened features."""
