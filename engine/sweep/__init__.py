"""The sweep of all tasks: `sweep` trains and tests grids, `arguments` starts it for scripts."""
