"""Greets, in words of a layer."""

import os

from words import greeting


def handler(event, context):
    return {"greeting": greeting(event.get("name", "world")), "stage": os.environ["STAGE"], "version": context.function_version}
