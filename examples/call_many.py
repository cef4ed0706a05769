"""A client of one's own: many calls in flight on one connection, with trio and without.

scheduler serve --state-dir state                 # in one terminal
scheduler deploy examples/hello                   # in another
python examples/call_many.py state/scheduler.sock
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import trio

from scheduler.client import BlockingClient, open_client
from scheduler.errors import SchedulerError, Throttled


async def with_trio(target, names):
    """A task per call; the client sends what they ask in the same moment in one piece."""
    greetings = {}

    async def greet(client, name):
        try:
            answer = await client.invoke_json("hello", {"name": name}, deadline_ms=2_000)
            greetings[name] = answer["message"]
        except Throttled as error:
            greetings[name] = f"come back in {error.retry_after_ms} ms: {error.account} has no {error.resource} left"
        except SchedulerError as error:
            greetings[name] = str(error)

    async with open_client(target) as client, trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(greet, client, name)
    return greetings


def with_threads(target, names):
    """The same for programs without an event loop: threads share the one connection."""
    with BlockingClient(target, timeout_s=10) as client, ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda name: client.invoke_json("hello", {"name": name}), names)
        return {name: answer["message"] for name, answer in zip(names, answers, strict=True)}


def main(target):
    names = [f"number {number}" for number in range(100)]
    for greetings in (trio.run(with_trio, target, names), with_threads(target, names)):
        print(len(greetings), "answers, the last:", greetings[names[-1]])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "state/scheduler.sock")
