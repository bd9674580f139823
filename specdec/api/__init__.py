"""specdec from Python and notebooks: ``specdec.compare`` and its kind, each giving back a ``Run``.

``calls`` are the functions, ``options`` their words, ``run`` what they return, ``frames`` its way into pandas and polars,
``strategies`` and ``source`` how a class reaches worker processes, ``progress`` who is told how it goes.
"""
