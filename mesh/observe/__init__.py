"""What can be seen of a node: metrics, statistics, traces, logs."""
