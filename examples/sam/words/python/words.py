"""What there is to say."""


def greeting(name: str) -> str:
    return f"hello, {name}"
