"""From the records of a study folder to tables, verdict, report, export, trackers and notebooks."""
