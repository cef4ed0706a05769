"""Processes that functions run in: making them, keeping some ahead, watching over them, and what this machine can isolate.

launcher    trio client of native/launcher: makes shells, specialises them, tells of their end
runtimes    the Python interpreters of this machine and what each needs to see
configured  how the service's settings start the launcher
resolvers   whom functions with a network ask for names
doctor      what can be isolated and limited here, by trying: attempts (what is tried), examinee (where),
            machine (what needs no sandbox), findings
pool        shells kept ahead of demand
supervisor  from the core's NEED to REAPED
"""
