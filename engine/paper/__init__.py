"""The paper's tables: the printed numbers, the shapes of the tables, their rendering and plots."""
