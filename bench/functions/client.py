"""A client of AWS made at init, as real functions do: half a second of imports before the first call."""

import boto3

client = boto3.client("s3", region_name="eu-west-1", aws_access_key_id="none", aws_secret_access_key="none")


def handler(event, context):  # noqa: ANN001, ANN201 - a user's handler has no annotations
    return {"service": client.meta.service_model.service_name}
