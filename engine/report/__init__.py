"""A report on saved classifiers: measured on stored features, drawn, and written as one HTML page with its data."""
