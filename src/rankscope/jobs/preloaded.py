"""What the fork server (edges/worker_process.py) imports once for all workers; nobody else imports this."""

from rankscope.edges.heavy_imports import collector_rests

with collector_rests():
    import rankscope.jobs.run_job
    import rankscope.jobs.search_job  # noqa: F401
