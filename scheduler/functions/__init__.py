"""What a function is: names, configuration, code packages and the registry. See each module's first lines."""
