"""Background callers that notice everything: each answer, each error, in order."""

from __future__ import annotations

import threading

from tests.e2e.raw import RawClient


class Callers:
    """`count` threads, each with a connection of its own, one call at a time, until the block ends."""

    def __init__(self, address, name, payload=b"{}", *, count=2, in_flight=1, allowed=()):
        self.address, self.name, self.payload = address, name, payload
        self.in_flight, self.allowed = in_flight, set(allowed)
        self.answers = []  # (payload) in the order of arrival, over all threads
        self.errors = []
        self.broken = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def _run(self):
        try:
            with RawClient(self.address) as client:
                waiting = []
                while not self._stop.is_set() or waiting:
                    while len(waiting) < self.in_flight and not self._stop.is_set():
                        waiting.append(client.send("invoke", self.name, self.payload))
                    error, result = client.wait(waiting.pop(0))
                    if error is None:
                        self.answers.append(result[0])
                    elif error["type"] not in self.allowed:
                        self.errors.append(error)
        except Exception as error:  # a thread's failure must reach the test
            self.broken.append(error)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive(), "a call was never answered"

    def check(self, least=1):
        assert self.broken == []
        assert self.errors == [], self.errors[:3]
        assert len(self.answers) >= least
