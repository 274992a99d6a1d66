"""One self-contained HTML page per run: reads run directories and nothing else."""
