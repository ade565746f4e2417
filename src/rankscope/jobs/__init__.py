"""What a worker does for one study folder: score the base, search a rate, train and score a run.

Like `pipeline.py` these files know several stages; they hold what runs inside one process, `pipeline.py` the loops
around it. All that a job needs is in the study folder, so a job is its folder and its run ids, and any machine that
sees the folder can do it. Files that exist are work that is done: each job does only what is missing.
"""
