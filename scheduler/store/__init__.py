"""Where things survive a restart. `port` says what a store promises, `sqlite` and its neighbours are the embedded one."""
