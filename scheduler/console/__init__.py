"""What an operator's tools read over HTTP: metrics, health, counters as JSON. See each module's first lines."""
