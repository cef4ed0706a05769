"""The same greeting, run by AWS's own client of the Runtime API instead of ours.

pip install 'invocation-scheduler[awslambdaric]'       # or bring awslambdaric in the package
scheduler deploy examples/hello-awslambdaric
scheduler invoke hello-awslambdaric '{"name": "you"}'
"""


def handler(event, context):
    name = event.get("name", "world")
    print(f"greeting {name}")
    return {"message": f"hello, {name}", "request": context.aws_request_id}
