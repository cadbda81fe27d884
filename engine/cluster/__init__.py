"""Run the shards of a command as jobs of Slurm, or as processes of this machine."""
