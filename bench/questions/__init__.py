"""All questions, in the order in which they are asked: floors first, since everything else is a ratio to them."""

from bench.context import Question
from bench.questions import (
    burst,
    ceiling,
    cold_start,
    connections,
    core,
    cpu_share,
    crossfire,
    fairness,
    floor,
    http,
    http_clients,
    http_connections,
    http_upload,
    http_url,
    isolation,
    latency,
    memory,
    mixed,
    overload,
    programs,
    runtime_api,
    sandboxes,
    scrape,
    scratch,
    snapshot,
    timeouts,
    under_load,
    warm,
)

__all__ = ["QUESTIONS"]

QUESTIONS: dict[str, Question] = {
    question.name: question
    for question in (
        floor.QUESTION,
        warm.QUESTION,
        ceiling.QUESTION,
        runtime_api.QUESTION,
        latency.QUESTION,
        crossfire.QUESTION,
        under_load.QUESTION,
        overload.QUESTION,
        fairness.QUESTION,
        timeouts.QUESTION,
        core.QUESTION,
        cold_start.QUESTION,
        snapshot.QUESTION,
        burst.QUESTION,
        cpu_share.QUESTION,
        isolation.QUESTION,
        sandboxes.QUESTION,
        programs.QUESTION,
        scratch.QUESTION,
        memory.QUESTION,
        scrape.QUESTION,
        mixed.QUESTION,
        connections.QUESTION,
        http.QUESTION,
        http_url.QUESTION,
        http_clients.QUESTION,
        http_upload.QUESTION,
        http_connections.QUESTION,
    )
}
