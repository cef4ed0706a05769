"""The smallest useful function: it greets, and tells where it ran.

scheduler deploy examples/hello
scheduler invoke hello '{"name": "you"}' --report
"""

import os


def handler(event, context):
    name = event.get("name", "world") if isinstance(event, dict) else "world"
    print(f"greeting {name}")
    return {
        "message": f"{os.environ.get('GREETING', 'Hello')}, {name}!",
        "function": context.function_name,
        "version": context.function_version,
        "memory_mb": int(context.memory_limit_in_mb),
        "remaining_ms": context.get_remaining_time_in_millis(),
    }
