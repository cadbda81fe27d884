"""One sweep for all tasks: `sweep` trains and tests grids, `arguments` starts it for scripts."""
