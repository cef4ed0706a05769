"""Asynchronous invocations: accepted once durable, invoked later, tried again as Lambda does. See each module's first lines."""
