"""AWS's KMS, Secrets Manager and Parameter Store, as far as functions and those who deploy them need them."""
