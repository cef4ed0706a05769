"""Called with an event, answers what json can say."""


def handler(event, context):
    name = event.get("name", "world")
    print(f"greeting {name}")
    return {"message": f"hello, {name}", "request": context.aws_request_id}
