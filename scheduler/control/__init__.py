"""Control methods of the socket protocol: who may call them, what they take, what they do. See each module's first lines."""
