"""What the service costs and how fast it is, asked one question per file and answered with ratios.

`python -m bench.run` asks all of them. docs/benchmarks.md says how each figure is made and what to distrust. Nothing in here is
needed to run the service; what is in here drives it from outside, as a client and as a reader of /proc.
"""
