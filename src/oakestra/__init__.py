"""Oakestra: a lightweight hierarchical orchestrator for edge computing.

    model                                      nouns
    scheduling  wire                           pure decisions; bytes <-> model
    control                                    the loop, clock, entropy, logs
    store  runtime  network  transport  identity     adapters, each behind a small protocol
    root  cluster  worker                      the tiers: observe -> plan -> execute
    dashboard  simulation  lab                 clients and harnesses of the tiers
    cli                                        `oak`

A floor imports only floors below it. Start reading at `worker/plan.py`, then `cluster/plan.py`.
"""

__version__ = "0.1.0"
