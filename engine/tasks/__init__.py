"""From opened features to tasks."""
