"""Deployment files: AWS SAM and CloudFormation templates, function.toml."""
