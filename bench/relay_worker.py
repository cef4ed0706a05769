"""The bare Python worker of the relay: descriptor 3, one message at a time, nothing but the handler between recv and send.

Run by bench/native/relay.c as a plain program; imports nothing of ours, so that it is a floor and not a product.
"""

import json
import socket


def handler(event, context):  # noqa: ANN001, ANN201 - a user's handler has no annotations
    return event


def main() -> None:
    channel = socket.socket(fileno=3)
    loads, dumps = json.loads, json.dumps
    while message := channel.recv(4096):  # a larger buffer would be mapped and unmapped for each message
        channel.sendall(dumps(handler(loads(message), None)).encode())


if __name__ == "__main__":
    main()
