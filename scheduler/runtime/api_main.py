"""The door of the runtime where calls come over Lambda's Runtime API: `python -I -S -B api_main.py`, with the environment that
Lambda's runtimes find themselves in. The package is loaded under its private name, as in bootstrap.py."""

import importlib.util
import os

DIRECTORY = os.path.dirname(os.path.abspath(__file__))


def main():
    spec = importlib.util.spec_from_file_location("_function_bootstrap", os.path.join(DIRECTORY, "bootstrap.py"))
    if spec is None or spec.loader is None:
        raise ImportError(f"no bootstrap.py in {DIRECTORY}")
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    bootstrap.adopt("api").run()


if __name__ == "__main__":
    main()
