"""Runs, their records and saved classifiers on disk, and tables and plots from records."""
